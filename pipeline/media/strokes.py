"""A stroke painting out of a photograph: what SDEdit (2108.01073) simulates its users' guides with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

REFERENCE_SIDE = 256
"""Pixels a side of the images that `kernel` is stated for."""


def stroke_painting(image: Pixels8, colours: int = 6, kernel: int = 23) -> Pixels8:
    """Median filter, then an adaptive palette of `colours`: uint8 `[H, W, 3]` → the same.

    `kernel` is the filter's side in an image of 256 pixels; in others it scales with the shorter side, to the
    nearest odd number, 3 at least: 28-pixel images take 3, 512-pixel ones 47. Raises `ValueError`.
    """
    if not 2 <= colours <= 256:
        raise ValueError(f"a stroke painting of {colours} colours: 2 to 256 are possible")
    if kernel < 1:
        raise ValueError(f"a median filter of {kernel} × {kernel} pixels: 1 × 1 is the smallest")
    side = max(3, round_to_odd(kernel * min(image.shape[:2]) / REFERENCE_SIDE)) if kernel > 1 else 1
    smooth = Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.MedianFilter(side))
    return np.array(smooth.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB"))


def round_to_odd(value: float) -> int:
    return 2 * round((value - 1) / 2) + 1
