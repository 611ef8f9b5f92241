"""Image bytes as pixels that can be seen: 8 bits, grey or RGB, upright, without transparency."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.media.frame import TURNS

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""The kinds of image files that can be read, by Pillow's names."""
LARGEST_IMAGE = 89_478_485
"""Pixels of an image, at most, which is Pillow's own limit. A larger one is refused before it is decoded: 30,000 ×
30,000 pixels would take 2.7 GB."""


class Undecodable(Exception):
    """Raised where bytes are no complete image of an allowed kind and size; the message says why."""


def decoded_bytes(data: bytes) -> int:
    """Bytes that it takes to decode an image, about, by its header: 3 a pixel, and as many on the way; 0 for none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return 6 * image.width * image.height if image.width * image.height <= LARGEST_IMAGE else 0
    except Exception:  # decoding says what is wrong with it
        return 0


class Opened(NamedTuple):
    """An image as it can be seen."""

    image: Image.Image
    """The image, upright."""
    orientation: int
    """The EXIF orientation that it has in its file, 1 to 8; 1 is upright."""


def open_image(data: bytes) -> Opened:
    """The decoded image in mode L or RGB. Raises `Undecodable`."""
    if not data:
        raise Undecodable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > LARGEST_IMAGE:
            raise Image.DecompressionBombError(f"{image.width} × {image.height} pixels")
        image.load()
        orientation = _upright(image)
        return Opened(_plain(image), orientation)
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable(f"the image is too large ({_short(error)}); {LARGEST_IMAGE} pixels are allowed") from None
    except Exception as error:  # a damaged file can break a decoder anywhere: the fault is the data's
        kind = "no image of a known format" if isinstance(error, UnidentifiedImageError) else "damaged image"
        raise Undecodable(f"{kind} ({_short(error)}); allowed are {', '.join(FORMATS)}") from None


def _upright(image: Image.Image) -> int:
    """Turns the image upright in place, and returns the orientation that it had."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # the picture is sound, only its EXIF block is not
        return 1
    return orientation if orientation in TURNS else 1


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel, or more
        values = np.asarray(image).astype(np.int64)
        scale = 257 if image.mode != "I" or values.max() > 255 else 1
        return Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise Undecodable("floating-point pixels (mode F) have no defined range")
    if image.mode == "1":
        return image.convert("L")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        flat = Image.alpha_composite(white, over)
        return flat.convert("L" if image.mode in ("L", "LA") else "RGB")
    return image.convert("RGB")


def _short(error: Exception) -> str:
    text = str(error).split("<_io")[0].strip() or type(error).__name__
    return text[:200]
