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
    """The prompt at one end."""
    second: str
    """The prompt at the other end."""
    share: float
    """Where the point lies: 0 is the first prompt, 1 the second."""


RowCondition = int | str | Between | None
"""The condition of one image: a class, a prompt, or a point between prompts; None for the unconditional estimate."""
Rows = Sequence[RowCondition] | Tensor | None
"""One `RowCondition` for each image, or labels int64 `[B]` with −1 for none; None where no image has a condition."""


def labels_of(rows: Sequence[RowCondition] | Tensor) -> Tensor:
    """The classes of B images, int64 `[B]`, −1 for none. Raises `TypeError` for a prompt."""
    if isinstance(rows, Tensor):
        return rows
    if wrong := [row for row in rows if not isinstance(row, int | None)]:
        raise TypeError(f"a class is expected, found {wrong[0]!r}")
    return torch.tensor([-1 if row is None else row for row in rows], dtype=torch.int64)


class Outline(Protocol):
    """What is known of a model without its weights: enough to check a recipe against."""

    @property
    def levels(self) -> Levels:
        """The noise levels that the model knows."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, in pixels, of the images that the model works on."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the z of one image: `(C, h, w)`, or `(C, F, h, w)` for a model of clips."""
        ...

    @property
    def space(self) -> Literal["pixel", "latent"]:
        """`pixel` where z is the image itself, with 1 or 3 channels, so that what moves pixels may act on it; else
        `latent`.
        """
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
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each class, where the model's folder tells them."""
        ...

    @property
    def unconditional(self) -> bool:
        """Whether there is an estimate without a condition."""
        ...

    @property
    def hash(self) -> str:
        """The sha256 of weights and configuration, in hexadecimal."""
        ...


class Model(Outline, Protocol):
    """The way between pixels and the space that the diffusion lives in, and a denoiser for that space."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Makes z `[B, C, h, w]` of pixels, float32 `[B, 3, H, W]` in [-1, 1]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Makes pixels of z: float32 `[B, 3, H, W]`, about [-1, 1], not clamped."""
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
        """How many frames F a window had in training."""
        ...

    @property
    def most_frames(self) -> int:
        """The largest F that the model can take."""
        ...


@runtime_checkable
class OfPrompts(Protocol):
    """A model that can tell how much of a prompt it reads."""

    def cut(self, prompt: str) -> int:
        """How many tokens at the end of a prompt are too many."""
        ...
