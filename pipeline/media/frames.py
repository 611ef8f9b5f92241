"""Bringing a frame of a clip to a model's size, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline.media.pixels import Fit, fitted, resized
from pipeline.media.records import Frame

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


def fit_frame(picture: Pixels8, size: tuple[int, int] | None, fit: Fit) -> tuple[Pixels8, Frame]:
    """Fits a frame uint8 `[H, W, 3]` to `size` (height, width), just as `pixels.decode` fits an image."""
    image = Image.fromarray(picture)
    pixels, seen, box = fitted(image, size, fit, Image.Resampling.BICUBIC)
    return pixels, Frame(mode="RGB", full=image.size, size=seen, box=box)


def unfit_frame(pixels: Pixels8, frame: Frame, restore_size: bool) -> Pixels8:
    """Brings a frame back, just as `pipeline.media.pixels.encode` does with an image."""
    left, top, right, bottom = frame.box
    image = Image.fromarray(pixels[top:bottom, left:right])
    return np.asarray(resized(image, frame.size) if restore_size else image)
