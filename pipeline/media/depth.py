"""Pixels of more than 8 bits: their values as they are stored, and what a declared range makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

MOST16 = 65535
"""The largest whole number of 16 bits."""
WHITE_IS_ZERO = 262, 0
"""The tag of a TIFF for the meaning of its numbers, and the value that says that 0 is white."""


@dataclass(frozen=True)
class Deep:
    """An image of more than 8 bits."""

    values: NDArray[Any]
    """The values as stored, `[H, W]`, or `[H, W, 3]` in colour."""
    alpha: Pixels8 | None
    """uint8 `[H, W]`: 0 where the image is transparent; None where it is opaque."""
    bits: int | None
    """16 for whole numbers from 0 on that may fill 16 bits; None for all others."""
    negative: bool = False
    """Whether the largest value is black."""

    def levels(self, low: float, high: float) -> Pixels8:
        """uint8 in the shape of the values: 0 for `low` and what is below it, 255 for `high` and what is above."""
        if self.values.dtype.kind == "u" and self.values.itemsize == 2:  # a table is faster, and takes no memory
            return self._scaled(np.arange(MOST16 + 1), low, high)[self.values]
        return self._scaled(self.values, low, high)

    def _scaled(self, values: NDArray[Any], low: float, high: float) -> Pixels8:
        shares = (values.astype(np.float64) - low) / (high - low)
        scaled = (255 * shares.clip(0, 1)).round().astype(np.uint8)
        return 255 - scaled if self.negative else scaled


def is_deep(image: Image.Image) -> bool:
    """Whether an image, opened and not loaded, has more than 8 bits a pixel and channel."""
    return image.mode == "F" or image.mode.startswith("I") or ";16" in _raw(image)


def deep(image: Image.Image, data: bytes) -> Deep | None:
    """The values of an image for which `is_deep` holds, opened from `data` and not loaded yet.

    None where Pillow reads no more than the upper 8 of 16 bits: a TIFF in colour.
    """
    raw, hidden = _raw(image), image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        tags = getattr(image, "tag_v2", {})
        values = np.asarray(image)
        if raw == "I;32N":  # Pillow knows no such type
            values = values.view(np.uint32)
        return Deep(
            values=values,
            alpha=None if hidden is None else np.where(values == hidden, 0, 255).astype(np.uint8),
            bits=16 if image.mode.startswith("I;16") and raw != "I;12" else None,
            negative=tags.get(WHITE_IS_ZERO[0]) == WHITE_IS_ZERO[1],
        )
    if image.format != "PNG":
        return None
    pixels = _png(data)
    colours, alpha = pixels[..., : -1 if pixels.shape[2] in (2, 4) else None], None
    if pixels.shape[2] in (2, 4):
        alpha = (pixels[..., -1] >> 8).astype(np.uint8)
    elif hidden is not None:
        alpha = np.where((colours == hidden).all(-1), 0, 255).astype(np.uint8)
    return Deep(values=colours[..., 0] if colours.shape[2] == 1 else colours, alpha=alpha, bits=16)


def _raw(image: Image.Image) -> str:
    """How the pixels lie in the file, by Pillow's name."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0].args if tiles else ""
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _png(data: bytes) -> NDArray[np.uint16]:
    """A PNG of 16 bits, `[H, W, C]`; Pillow would drop the lower half of each number."""
    import torch
    from torchvision.io import ImageReadMode, decode_png

    coded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_png(coded, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
