"""Mask images, moved with the image that they belong to: each pixel has a value that was there before."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

from pipeline.media.fitting import resized
from pipeline.media.frame import TURNS, Frame
from pipeline.media.opening import LARGEST_IMAGE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")
"""The kinds of files that keep the values of a mask, by Pillow's names."""


def move_mask(data: bytes, frame: Frame, *, upright: bool) -> bytes:
    """The mask of an image in the geometry of the output, in the same kind of file, with its mode and palette.

    `upright` says how masks lie that state no orientation of their own. Raises `ValueError` for a mask of another size
    than the image's, and for a file that cannot be read, or that does not keep values.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=LOSSLESS)
        if image.width * image.height > LARGEST_IMAGE:
            raise ValueError(f"{image.width} × {image.height} pixels are too many; {LARGEST_IMAGE} are allowed")
        if (pages := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"it has {pages} pages, and a mask has one")
        kind, transparent = image.format, image.info.get("transparency")
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
        image.load()  # which turns a TIFF
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # a damaged file can break a decoder anywhere
        raise ValueError(f"no mask can be read ({str(error)[:100]}); allowed are {', '.join(LOSSLESS)}") from None
    upright = upright or turned != 1
    expected = frame.full if upright else frame.stored
    if image.size != expected:
        raise ValueError(
            f"the mask measures {image.width} × {image.height}, and its image {expected[0]} × {expected[1]}"
        )
    moved = place(image, frame, upright=upright)
    buffer = io.BytesIO()
    moved.save(buffer, kind, **({} if transparent is None else {"transparency": transparent}))
    return buffer.getvalue()


def place(image: Image.Image, frame: Frame, *, upright: bool) -> Image.Image:
    """An image in the geometry of the output, by the nearest pixels."""
    swap, mirror, flip = TURNS[1 if upright else frame.orientation]
    for turn, way in (
        (swap, Image.Transpose.TRANSPOSE),
        (mirror, Image.Transpose.FLIP_LEFT_RIGHT),
        (flip, Image.Transpose.FLIP_TOP_BOTTOM),
    ):
        image = image.transpose(way) if turn else image
    return resized(image.crop(frame.window), frame.output, Image.Resampling.NEAREST)


def moved_pixels(mask: NDArray[np.uint8], frame: Frame, *, upright: bool) -> NDArray[np.uint8]:
    """A mask uint8 `[H, W]` of the source, in the geometry of the output."""
    return np.asarray(place(Image.fromarray(mask), frame, upright=upright))
