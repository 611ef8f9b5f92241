"""What an operator may ask of a model. The model families in `pipeline.models` provide it."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser
from pipeline.diffusion.levels import Levels


class Model(Protocol):
    """Between pixels and the space the diffusion lives in, and a denoiser for that space."""

    @property
    def levels(self) -> Levels: ...
    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels the model works on."""
        ...

    @property
    def classes(self) -> int | None:
        """Number of classes of a class-conditional model; labels are 0 … classes − 1."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    @property
    def unconditional(self) -> bool:
        """There is an estimate without a condition: label −1, or no labels at all."""
        ...

    @property
    def space(self) -> Literal["pixel", "latent"]:
        """`pixel`: z is the image itself, `[B, 1 or 3, H, W]`; what moves pixels may act on it."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 `[B, 3, H, W]` in [-1, 1] → z `[B, C, h, w]`."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """z → float32 `[B, 3, H, W]`, about [-1, 1], not clamped."""
        ...

    def denoiser(self, labels: Tensor | None) -> Denoiser:
        """`labels` int64 `[B]`, −1 or None for the unconditional estimate."""
        ...
