"""What a model folder's configuration tells of the model, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.diffusion.levels import Levels


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A model without its weights, as operators check against it (`pipeline.diffusion.model.Outline`)."""

    levels: Levels
    size: tuple[int, int]
    shape: tuple[int, ...]
    space: Literal["pixel", "latent"] = "latent"
    conditioning: Literal["none", "class", "text"] = "text"
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    unconditional: bool = True
    attention: bool = False
    """Whether it is a UNet that attends to a prompt, word by word (`pipeline.diffusion.editing`)."""
    hash: str = ""
