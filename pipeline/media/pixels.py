"""The one codec: image bytes ↔ uint8 `[H, W, 3]` ↔ float `[B, 3, H, W]` in [-1, 1]."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from pipeline.media.contents import content_hash
from pipeline.media.fitting import framed, unfitted
from pipeline.media.frame import Frame
from pipeline.media.opening import open_image
from pipeline.media.rules import PLAIN, PixelRules

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.media.records import Pixels8

Codec = Literal["png", "jpeg", "webp"]
"""The kinds of image files that can be written."""
EXTENSIONS: dict[Codec, tuple[str, ...]] = {"png": ("png",), "jpeg": ("jpg", "jpeg"), "webp": ("webp",)}
"""The extensions of each codec, the usual one first."""
SMALL = 128
"""Below this many pixels a side, PNG costs little and loses nothing; above it, JPEG and WebP save time."""


class Picture(NamedTuple):
    """A decoded image."""

    pixels: Pixels8
    """uint8 RGB `[H, W, 3]`."""
    frame: Frame
    """How it was fitted."""
    notes: tuple[str, ...]
    """What people should know of how it was understood; see `Row.notes`."""
    content: str | None = None
    """The hash of all its pixels, before it was fitted; see `content_hash`."""


def read_picture(data: bytes, size: tuple[int, int] | None = None, rules: PixelRules = PLAIN) -> Picture:
    """Decodes image bytes to uint8 RGB `[H, W, 3]` as `rules` say, fitted to `size` (height, width; None: as it is).

    The EXIF orientation is applied, colours are brought to sRGB, transparency is laid over the background, and of
    several pages the first is taken. `resize` stretches the image; `crop` keeps its centre; `centre 128` keeps 128
    pixels (of the shorter side of `size`) around the centre, or all there are; `pad` repeats the border. Raises
    `Undecodable`, also for more than 8 bits a pixel where the rules do not say what they mean.
    """
    image, orientation, notes = open_image(data, rules)
    return Picture(*framed(image, orientation, size, rules.fit), notes, content_hash(image))


def decode(data: bytes, size: tuple[int, int] | None = None, rules: PixelRules = PLAIN) -> tuple[Pixels8, Frame]:
    """The pixels and the frame of `read_picture`."""
    return read_picture(data, size, rules)[:2]


def codec_for(size: tuple[int, int] | None) -> Codec:
    """The codec of all images of a job whose model works at `size` (height, width; None: there is no model).

    It never depends on an image, because readers expect one kind of file: PNG without a model and below 128 pixels a
    side, else JPEG.
    """
    return "png" if size is None or max(size) < SMALL else "jpeg"


def encode(pixels: Pixels8, frame: Frame, *, codec: Codec, quality: int) -> bytes:
    """Encodes uint8 RGB `[H, W, 3]` in the mode that the source had.

    The margin of a padded image is cut off, and the rest is scaled to `frame.output`. `quality`, 1 to 100, is for JPEG
    and WebP. No metadata is written.
    """
    image = unfitted(pixels, frame)
    if frame.mode == "L":
        image = image.convert("L")
    buffer = io.BytesIO()
    if codec == "png":
        image.save(buffer, "PNG", compress_level=1)
    elif codec == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def image_ext(source_ext: str, codec: Codec) -> str:
    """The extension of the output's member: the source's, with the codec's usual one as its last part.

    So all images of a job have one: a reader takes `jpg` and `jpeg` for two columns.
    """
    prefix, dot, _ = source_ext.rpartition(".")
    return prefix + dot + EXTENSIONS[codec][0]


def to_pixels(images: Sequence[Pixels8], device: str) -> Tensor:
    """Turns uint8 images `[H, W, 3]` of one size into float32 `[B, 3, H, W]` in [-1, 1] on `device`."""
    import torch

    batch = torch.from_numpy(np.stack(images)).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def from_pixels(pixels: Tensor) -> Pixels8:
    """Turns float `[B, 3, H, W]` in [-1, 1] into uint8 `[B, H, W, 3]`.

    It rounds: truncation would change 63 of 256 levels.
    """
    import torch

    levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
