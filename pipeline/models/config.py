"""The `model:` section of a recipe: which weights, and how they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from pipeline.errors import UserError
from pipeline.section import Section

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Lora(Section):
    """A LoRA file, merged into the network."""

    path: str
    """A .safetensors file."""
    scale: float = 1.0


class TextualInversion(Section):
    """An embedding for a new word of the prompts."""

    path: str
    """A .safetensors file."""
    token: str
    """The word."""


class VaeConfig(Section):
    """Of models of latents."""

    slicing: bool = False
    """One image at a time; else as many as have two megapixels together."""
    tiling: bool = False
    """Decode large images in overlapping tiles."""


class Upscaler(Section):
    """A further stage of a cascade: the same job again, at more pixels, from the result of the stage before."""

    path: str
    """A folder or hub id, like `model.path`."""
    revision: str | None = None
    variant: str | None = None
    noise_level: int | None = Field(default=None, ge=0)
    """Of the noise that the small image gets before it conditions this stage, in levels of the training schedule: 250
    for DeepFloyd IF and 20 for the ×4 upscaler, if not given."""


class ModelConfig(Section):
    """Any model folder in the diffusers layout: its own model_index.json says what it is."""

    path: str
    """A diffusers model folder, `embedded:NAME`, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Of the weight files: `fp16`."""
    local_files_only: bool = False
    """Take a hub id from the local cache, and never ask the hub."""
    size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] | None = None
    """Height and width in pixels, for models that work at several sizes; else the one they were trained at."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the network alone: the trajectory is always float32, and a VAE that asks for it is, too. Never TF32."""
    channels_last: bool = False
    compile: bool = False
    offload: Literal["none", "model", "sequential"] = "none"
    """Keep what is not at work in main memory: whole components, or layer by layer (slow)."""
    lora: tuple[Lora, ...] = ()
    textual_inversion: tuple[TextualInversion, ...] = ()
    vae: VaeConfig = VaeConfig()
    distilled_guidance: float | None = Field(default=None, ge=0)
    """For models that take guidance as a number (Flux dev: 3.5, LCM: 8.5 if not given); costs no second call."""
    upscalers: tuple[Upscaler, ...] = ()
    """The further stages of a cascade."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64
    """Images in one call of the network; the last batch of a shard is padded to it. `auto`: the largest that fits."""


def refuse_distilled_guidance(folder: Path, config: ModelConfig) -> None:
    """Raises `UserError` where it is given; for models that take none."""
    if config.distilled_guidance is not None:
        raise UserError(
            f"model.distilled_guidance is {config.distilled_guidance:g}, and {folder} takes no guidance as a number; "
            "operators have guidance of their own"
        )
