"""Stroke paintings of photographs, by which SDEdit (2108.01073) simulates its users' guides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

REFERENCE_SIDE = 256
"""Side, in pixels, of the images that `kernel` is stated for."""


def stroke_painting(image: Pixels8, colours: int = 6, kernel: int = 23) -> Pixels8:
    """Paints uint8 RGB `[H, W, 3]` in a few strokes: a median filter, then an adaptive palette of `colours`.

    `kernel` is the filter's side in an image of 256 pixels. In others it scales with the shorter side, to the nearest
    odd number and at least 3: images of 28 pixels take 3, those of 512 take 47. Raises `ValueError` unless there are 2
    to 256 colours and the kernel is at least 1.
    """
    if not 2 <= colours <= 256:
        raise ValueError(f"a stroke painting of {colours} colours: 2 to 256 are possible")
    if kernel < 1:
        raise ValueError(f"a median filter of {kernel} × {kernel} pixels: 1 × 1 is the smallest")
    side = max(3, round_to_odd(kernel * min(image.shape[:2]) / REFERENCE_SIDE)) if kernel > 1 else 1
    smooth = Image.fromarray(np.ascontiguousarray(image)).filter(ImageFilter.MedianFilter(side))
    return np.array(smooth.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB"))


def round_to_odd(value: float) -> int:
    """The odd number nearest to `value`."""
    return 2 * round((value - 1) / 2) + 1
