"""The `model:` section of a recipe: which weights, and how they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from pipeline.errors import UserError
from pipeline.section import LocalPath, Section

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Lora(Section):
    """A LoRA file (2106.09685), merged into the network."""

    path: LocalPath
    """The path of a .safetensors file."""
    scale: float = 1.0


class TextualInversion(Section):
    """An embedding for a new word of the prompts (2208.01618)."""

    path: LocalPath
    """The path of a .safetensors file."""
    token: str
    """The word that the embedding stands for."""


class VaeConfig(Section):
    """How the autoencoder of a model of latents runs."""

    slicing: bool = False
    """Whether it takes one image at a time; else as many as have two megapixels together."""
    tiling: bool = False
    """Whether it decodes large images in overlapping tiles."""


class Upscaler(Section):
    """A further stage of a cascade: the same job again, at more pixels, from the result of the stage before."""

    path: str
    """A diffusers folder or a hub id, like `model.path`."""
    revision: str | None = None
    variant: str | None = None
    noise_level: int | None = Field(default=None, ge=0)
    """The level of the noise that the small image gets before it conditions this stage, in levels of the training
    schedule: 250 for DeepFloyd IF and 20 for the ×4 upscaler, if not given."""


class ModelConfig(Section):
    """Any model folder in the diffusers layout: its own model_index.json says what it is."""

    path: str
    """A diffusers model folder, `embedded:NAME`, or a hub id."""
    revision: str | None = None
    """The branch, tag or commit of a hub id."""
    variant: str | None = None
    """Which variant of the weight files is loaded, such as `fp16`."""
    local_files_only: bool = False
    """Whether a hub id is taken from the local cache only, and the hub never asked."""
    size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] | None = None
    """Height and width in pixels, for models that work at several sizes; else the one they were trained at."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision of the network alone: the trajectory is always float32, and a VAE that asks for it is, too. TF32 is
    never used."""
    channels_last: bool = False
    compile: bool = False
    offload: Literal["none", "model", "sequential"] = "none"
    """What is kept in main memory while it is not at work: whole components, or layer by layer (slow)."""
    lora: tuple[Lora, ...] = ()
    textual_inversion: tuple[TextualInversion, ...] = ()
    vae: VaeConfig = VaeConfig()
    distilled_guidance: float | None = Field(default=None, ge=0)
    """The guidance of models that take it as a number (Flux dev: 3.5, LCM: 8.5 if not given); it costs no second
    call."""
    upscalers: tuple[Upscaler, ...] = ()
    """The further stages of a cascade, from below."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64
    """How many images go into one call of the network; the last batch of a shard is padded to it. `auto` takes the
    largest that fits."""


def refuse_distilled_guidance(folder: Path, config: ModelConfig) -> None:
    """Raises `UserError` where `distilled_guidance` is given to a model that takes none."""
    if config.distilled_guidance is not None:
        raise UserError(
            f"model.distilled_guidance is {config.distilled_guidance:g}, and {folder} takes no guidance as a number; "
            "operators have guidance of their own"
        )
