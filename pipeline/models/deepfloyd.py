"""DeepFloyd IF, stages I and II: pixel models conditioned on hidden states of T5, as Imagen (2205.11487)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import dynamic_threshold
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, unlimited
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.folder import hash_model, read_json
from pipeline.models.loading import INDEX, hash_of, load_pipeline
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.schedule import levels_of, prediction_of, read_scheduler
from pipeline.models.sizes import image_size
from pipeline.models.sketch import Sketch
from pipeline.models.stage import Stage

NOISE_LEVEL = 250
"""The level of the small image's noise, if the recipe states none."""
CHANNELS = 3


def sketch_deepfloyd(folder: Path, config: ModelConfig) -> Sketch:
    """Tells stage I from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    unet = read_json(folder / "unet" / "config.json")
    multiple = 2 ** (len(unet["block_out_channels"]) - 1)
    size = image_size(folder, config, trained=unet["sample_size"], cell=1, multiple=multiple)
    return _sketch(folder, config, size)


def load_deepfloyd(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads stage I onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    pipe = load_pipeline(folder, config, device)
    unet = pipe.unet

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        return unet(x, timestep, embedding["encoder_hidden_states"], return_dict=False)[0]

    return _backbone(pipe, predict, sketch_deepfloyd(folder, config), folder, config, device)


def sketch_deepfloyd_stage(folder: Path, config: ModelConfig, below: tuple[int, int]) -> Sketch:
    """Tells stage II over images of `below` (height, width): the shorter side becomes the one it was trained at."""
    side, short = read_json(folder / "unet" / "config.json")["sample_size"], min(below)
    if side % short:
        raise UserError(f"{folder} makes images of {side} pixels a side, no multiple of the {short} of the stage below")
    return _sketch(folder, config, (below[0] * side // short, below[1] * side // short))


def load_deepfloyd_stage(
    folder: Path, config: ModelConfig, below: tuple[int, int], noise_level: int | None, device: str
) -> Stage:
    """Loads stage II over images of `below` (height, width), noised to `noise_level`, onto `device`."""
    sketch = sketch_deepfloyd_stage(folder, config, below)
    level = NOISE_LEVEL if noise_level is None else noise_level
    pipe = load_pipeline(folder, config, device)
    unet = pipe.unet

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        noisy = torch.full((len(x),), level, device=x.device)
        return unet(x, timestep, embedding["encoder_hidden_states"], class_labels=noisy, return_dict=False)[0]

    return Stage(
        **vars(sketch),
        backbone=_backbone(pipe, predict, sketch, folder, config, device),
        noising=levels_of(folder / "image_noising_scheduler").to(device),
        noise_level=level,
    )


def same_text(folder: Path, other: Path) -> bool:
    """Whether two pipelines are DeepFloyd IF with one and the same T5, 9 GB of which are enough."""
    if not all(str(read_json(f / INDEX).get("_class_name")).startswith("IF") for f in (folder, other)):
        return False
    return all(hash_model(folder / part) == hash_model(other / part) for part in ("tokenizer", "text_encoder"))


def limit_of(folder: Path) -> Callable[[Tensor], Tensor]:
    """The limit of estimates that the scheduler's configuration asks for: dynamic thresholding, clipping, or none."""
    scheduler = read_scheduler(folder)
    if scheduler.get("thresholding"):
        quantile, largest = scheduler["dynamic_thresholding_ratio"], scheduler["sample_max_value"]
        return partial(dynamic_threshold, quantile=quantile, largest=largest)
    if scheduler.get("clip_sample"):
        clip = scheduler["clip_sample_range"]
        return partial(torch.clamp, min=-clip, max=clip)
    return unlimited


def _sketch(folder: Path, config: ModelConfig, size: tuple[int, int]) -> Sketch:
    shape = (CHANNELS, *size)
    return Sketch(
        levels=levels_of(folder),
        size=size,
        shape=shape,
        space="pixel",
        attention=True,
        hash=hash_of(folder, config),
    )


def _backbone(
    pipe: Any,
    predict: Callable[[Tensor, Tensor, Embedding], Tensor],
    sketch: Sketch,
    folder: Path,
    config: ModelConfig,
    device: str,
) -> Backbone:
    """The learned variance is dropped: solvers know their own."""

    def embed(prompt: str | None) -> Embedding:
        hidden, _ = pipe.encode_prompt(prompt or "", do_classifier_free_guidance=False, device=device)
        return {"encoder_hidden_states": hidden[0]}

    return Backbone(
        **vars(sketch) | {"levels": sketch.levels.to(device)},
        network=pipe.unet,
        tokenizer=pipe.tokenizer,
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
        vae=None,
        prediction=prediction_of(folder),
        limit=limit_of(folder),
        dtype=DTYPES[config.dtype],
    )
