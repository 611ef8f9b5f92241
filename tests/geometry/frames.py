"""Frames of blank images, and movers for them."""

from __future__ import annotations

from typing import Any

from PIL import Image

from pipeline.geometry.config import GeometryConfig
from pipeline.geometry.moving import Mover
from pipeline.media.fitting import framed
from pipeline.media.frame import Frame

SIZE = (16, 24)
"""Height and width of what a model sees."""


def frame(width: int = 60, height: int = 31, fit: str = "crop", orientation: int = 1, size: Any = SIZE) -> Frame:
    """The frame of an upright image of `width` and `height`."""
    return framed(Image.new("L", (width, height)), orientation, size, fit)[1]


def mover(where: Frame, **options: Any) -> Mover:
    return Mover(GeometryConfig(**options), where)
