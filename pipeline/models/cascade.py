"""Cascades: a model of small images, and stages that enlarge what it makes (2106.15282)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.diffusion.denoisers import Denoiser
from pipeline.diffusion.model import Model, OfPrompts, Outline, Rows
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig, Upscaler
from pipeline.models.deepfloyd import load_deepfloyd_stage, same_text, sketch_deepfloyd_stage
from pipeline.models.folder import find_model, read_json
from pipeline.models.loading import INDEX
from pipeline.models.sketch import Sketch
from pipeline.models.stage import Stage
from pipeline.models.upscaler import load_upscaler, sketch_upscaler


@dataclass(frozen=True)
class StageFamily:
    """How a kind of upper stage is read and loaded."""

    sketch: Callable[[Path, ModelConfig, tuple[int, int]], Sketch]
    """Tells the stage without its weights, from the size (height, width) of the stage below."""
    load: Callable[[Path, ModelConfig, tuple[int, int], int | None, str], Stage]
    """Loads the stage, also from the noise level that the recipe gives, onto a device."""
    noising: str
    """The folder of the scheduler that noises small images."""


STAGES: dict[str, StageFamily] = {
    "IFSuperResolutionPipeline": StageFamily(
        sketch_deepfloyd_stage, load_deepfloyd_stage, noising="image_noising_scheduler"
    ),
    "StableDiffusionUpscalePipeline": StageFamily(sketch_upscaler, load_upscaler, noising="low_res_scheduler"),
}


@dataclass(frozen=True, kw_only=True)
class CascadeSketch(Sketch):
    """A cascade without its weights (`pipeline.diffusion.model.Outline`).

    Its `size` is that of the last stage, which is what is read and written; all else is the first's. Operators work on
    the stages (`pipeline.operators.on_cascades`).
    """

    first: Outline
    stages: tuple[Sketch, ...]
    """The stages above the first, from below."""


@dataclass(frozen=True, kw_only=True)
class Cascade(CascadeSketch):
    """A loaded cascade. As a `Model` it is its first stage, which takes images of any larger size."""

    first: Model
    stages: tuple[Stage, ...]

    def encode(self, pixels: Tensor) -> Tensor:
        """Scales pixels `[B, 3, H, W]` down to the size of the first stage, and encodes them there."""
        return self.first.encode(shrunk(pixels, self.first.size))

    def decode(self, z: Tensor) -> Tensor:
        """Decodes z to pixels in the size of the first stage."""
        return self.first.decode(z)

    def denoiser(self, rows: Rows) -> Denoiser:
        return self.first.denoiser(rows)

    def cut(self, prompt: str) -> int:
        """How many tokens at the end of a prompt the first stage does not read."""
        return self.first.cut(prompt) if isinstance(self.first, OfPrompts) else 0

    def limit(self, x0: Tensor) -> Tensor:
        return self.first.limit(x0)


def shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scales `[B, C, H, W]` down to `[B, C, *size]`, by means of areas."""
    return images if images.shape[-2:] == size else interpolate(images, size=size, mode="area")


def sketch_cascade(first: Outline, config: ModelConfig) -> CascadeSketch:
    """Tells the stages of `config.upscalers` over `first`. Raises `UserError` for what can't be a stage."""
    stages: list[Sketch] = []
    for i, upscaler in enumerate(config.upscalers):
        folder, family = find_stage(config, i)
        check_noise_level(folder, family, upscaler)
        stages.append(family.sketch(folder, stage_config(config, upscaler), size_below(first, stages)))
    return CascadeSketch(**_outlined(first, stages), first=first, stages=tuple(stages))


def load_cascade(first: Model, config: ModelConfig, device: str) -> Cascade:
    """Loads the stages of `config.upscalers` over `first`. Stages of DeepFloyd IF share the first's text encoder, if
    theirs is the same.
    """
    stages: list[Stage] = []
    for i, upscaler in enumerate(config.upscalers):
        folder, family = find_stage(config, i)
        check_noise_level(folder, family, upscaler)
        own = stage_config(config, upscaler)
        stage = family.load(folder, own, size_below(first, stages), upscaler.noise_level, device)
        if isinstance(first, Backbone) and same_text(find_model(config), folder):
            stage = replace(stage, backbone=replace(stage.backbone, embed=first.embed))
        stages.append(stage)
    return Cascade(**_outlined(first, stages), first=first, stages=tuple(stages))


def size_below(first: Outline, stages: list[Any]) -> tuple[int, int]:
    """Height and width of what the next stage enlarges: the last of `stages`, else `first`."""
    below: Outline = stages[-1] if stages else first
    return below.size


def stage_config(config: ModelConfig, upscaler: Upscaler) -> ModelConfig:
    """How a stage is loaded: like the first, but for what belongs to the first's weights."""
    place = {"path": upscaler.path, "revision": upscaler.revision, "variant": upscaler.variant}
    return config.model_copy(update=place | {"lora": (), "textual_inversion": (), "upscalers": ()})


def find_stage(config: ModelConfig, i: int) -> tuple[Path, StageFamily]:
    """Finds the folder and family of an upper stage. Raises `UserError` where there is no such folder, or no upper
    stage in it.
    """
    try:
        folder = find_model(stage_config(config, config.upscalers[i]))
    except UserError as error:
        raise UserError(f"model.upscalers[{i}]: {error}") from None
    name = read_json(folder / INDEX).get("_class_name")
    if name not in STAGES:
        raise UserError(
            f"model.upscalers[{i}]: {folder / INDEX}: _class_name is {name!r}; known are {', '.join(STAGES)}"
        )
    return folder, STAGES[name]


def check_noise_level(folder: Path, family: StageFamily, upscaler: Upscaler) -> None:
    """Raises `UserError` for a noise level that the stage's schedule does not have."""
    levels = read_json(folder / family.noising / "scheduler_config.json").get("num_train_timesteps", 1000)
    largest = read_json(folder / INDEX).get("max_noise_level", levels - 1)
    if upscaler.noise_level is not None and upscaler.noise_level > largest:
        raise UserError(f"noise_level is {upscaler.noise_level}; allowed are 0 to {largest} for {folder}")


def _outlined(first: Outline, stages: list[Any]) -> dict[str, Any]:
    same = {field.name: getattr(first, field.name) for field in fields(Sketch) if hasattr(first, field.name)}
    together = hashlib.sha256("\n".join(part.hash for part in [first, *stages]).encode()).hexdigest()
    return same | {"size": stages[-1].size, "hash": together}
