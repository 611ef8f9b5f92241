"""The ×4 upscaler of Stable Diffusion: latents of a VAE of scale 4, beside the noised small image (2112.10752)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.backbone import Backbone, parts
from pipeline.models.config import ModelConfig
from pipeline.models.folder import read_json
from pipeline.models.loading import hash_of, load_pipeline
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.schedule import levels_of
from pipeline.models.sketch import Sketch
from pipeline.models.stage import Stage
from pipeline.models.vae import downscaling

NOISE_LEVEL = 20
"""The level of the small image's noise, if the recipe states none."""


def sketch_upscaler(folder: Path, config: ModelConfig, below: tuple[int, int]) -> Sketch:
    """Tells the stage over images of `below` (height, width): it has a cell of latents for each of their pixels."""
    vae = read_json(folder / "vae" / "config.json")
    side = downscaling(vae)
    return Sketch(
        levels=levels_of(folder),
        size=(below[0] * side, below[1] * side),
        shape=(vae["latent_channels"], *below),
        hash=hash_of(folder, config),
    )


def load_upscaler(
    folder: Path, config: ModelConfig, below: tuple[int, int], noise_level: int | None, device: str
) -> Stage:
    """Loads the stage over images of `below` (height, width), noised to `noise_level`, onto `device`."""
    sketch = sketch_upscaler(folder, config, below)
    level = NOISE_LEVEL if noise_level is None else noise_level
    pipe = load_pipeline(folder, config, device)

    def embed(prompt: str | None) -> Embedding:
        hidden, _ = pipe.encode_prompt(prompt or "", device, 1, False)
        return {"encoder_hidden_states": hidden[0]}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        noisy = torch.full((len(x),), level, device=x.device)
        return pipe.unet(x, timestep, embedding["encoder_hidden_states"], class_labels=noisy, return_dict=False)[0]

    backbone = Backbone(
        **parts(sketch, pipe.unet, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
    )
    noising = levels_of(folder / "low_res_scheduler").to(device)
    return Stage(**vars(sketch), backbone=backbone, noising=noising, noise_level=level)
