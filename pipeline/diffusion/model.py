"""What an operator may ask of a model. The model families in `pipeline.models` provide it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser
from pipeline.diffusion.levels import Levels


class Model(Protocol):
    """Between pixels and the space the diffusion lives in, and a denoiser for that space."""

    levels: Levels
    size: tuple[int, int]
    """Height and width of the pixels the model works on."""
    classes: int | None
    """Number of classes of a class-conditional model; labels are 0 … classes − 1."""
    hash: str
    """sha256 over everything that decides the outputs: weights, configuration, codec, schedule."""

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 `[B, 3, H, W]` in [-1, 1] → z `[B, C, h, w]`."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """z → float32 `[B, 3, H, W]`, about [-1, 1], not clamped."""
        ...

    def denoiser(self, labels: Tensor | None) -> Denoiser:
        """`labels` int64 `[B]`, or None for the unconditional estimate."""
        ...
