"""Masks of the faces in an image, for jobs that change only these: which pixels change, and how softly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

FaceBox = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


def softness(boxes: Sequence[FaceBox], size: tuple[int, int], margin: float, feather: float) -> NDArray[np.float32]:
    """How much of each pixel changes, `[H, W]` in [0, 1]: 1 inside each face's ellipse, falling to 0 at its border.

    The ellipse spans the box with `margin`, a fraction of its sides, added on each side. `feather`, a fraction of the
    ellipse's diameter, is the width of the soft edge, which has the shape of half a cosine wave.
    """
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    soft = np.zeros(size, dtype=np.float32)
    for left, top, wide, high in boxes:
        across, along = (wide * (0.5 + margin), high * (0.5 + margin))
        radius = np.hypot((x - left - wide / 2) / across, (y - top - high / 2) / along)
        inside = np.clip((1 - radius) / max(2 * feather, 1e-6), 0, 1)
        soft = np.maximum(soft, (1 - np.cos(np.pi * inside)) / 2)
    return soft.astype(np.float32)


def to_change(soft: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The pixels that change at all, as an operator's mask: uint8 `[H, W]` of 0 and 1."""
    return (soft > 0).astype(np.uint8)


def blend(before: Pixels8, after: Pixels8, soft: NDArray[np.float32]) -> Pixels8:
    """Mixes uint8 images `[H, W, 3]` by `soft [H, W]`: `before` at 0, bit for bit, and `after` at 1."""
    mixed = before + soft[..., None] * (after.astype(np.float32) - before)
    return mixed.round().astype(np.uint8)
