"""What an operator may ask of a model. The model families in `pipeline.models` provide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser
from pipeline.diffusion.levels import Levels


@dataclass(frozen=True)
class Between:
    """A point on the straight line from the embedding of one prompt to that of another."""

    first: str
    second: str
    share: float
    """0 is the first, 1 the second."""


RowCondition = int | str | Between | None
"""The condition of one image: a class, a prompt, a point between prompts; None for the unconditional estimate."""
Rows = Sequence[RowCondition] | Tensor | None
"""One `RowCondition` for each image, or labels int64 `[B]` with −1 for none; None: no image has a condition."""


def labels_of(rows: Sequence[RowCondition] | Tensor) -> Tensor:
    """Classes as int64 `[B]`, −1 for none. Raises `TypeError` for a prompt."""
    if isinstance(rows, Tensor):
        return rows
    if wrong := [row for row in rows if not isinstance(row, int | None)]:
        raise TypeError(f"a class is expected, found {wrong[0]!r}")
    return torch.tensor([-1 if row is None else row for row in rows], dtype=torch.int64)


class Outline(Protocol):
    """What is known of a model without its weights: enough to check a recipe against."""

    @property
    def levels(self) -> Levels: ...
    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pixels the model works on."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one z: `(C, h, w)`."""
        ...

    @property
    def space(self) -> Literal["pixel", "latent"]:
        """`pixel`: z is the image itself, 1 or 3 channels; what moves pixels may act on it."""
        ...

    @property
    def conditioning(self) -> Literal["none", "class", "text"]:
        """What a `RowCondition` may be, beside None."""
        ...

    @property
    def classes(self) -> int | None:
        """Number of classes of a class-conditional model; labels are 0 … classes − 1."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    @property
    def unconditional(self) -> bool:
        """There is an estimate without a condition."""
        ...

    @property
    def hash(self) -> str:
        """sha256 of weights and configuration."""
        ...


class Model(Outline, Protocol):
    """Between pixels and the space the diffusion lives in, and a denoiser for that space."""

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 `[B, 3, H, W]` in [-1, 1] → z `[B, C, h, w]`."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """z → float32 `[B, 3, H, W]`, about [-1, 1], not clamped."""
        ...

    def denoiser(self, rows: Rows) -> Denoiser:
        """The estimate under one condition for each image. Prompts are embedded here, once."""
        ...

    def limit(self, x0: Tensor) -> Tensor:
        """An estimate, brought into the range the model was trained on, where its scheduler asks for that.

        It comes after guidance and all that combines estimates: each of them alone may leave the range.
        """
        ...


@runtime_checkable
class OfClips(Protocol):
    """A model that sees windows of F frames: its pixels are `[B, 3, F, H, W]`, its z `[B, C, F, h, w]`."""

    @property
    def frames(self) -> int:
        """F of its training."""
        ...

    @property
    def most_frames(self) -> int:
        """The largest F that it can take."""
        ...
