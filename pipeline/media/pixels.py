"""The one codec: image bytes ↔ uint8 `[H, W, 3]` ↔ float `[B, 3, H, W]` in [-1, 1]."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import AfterValidator

from pipeline.media.masks import read_mask
from pipeline.media.records import Frame

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.media.records import Pixels8


def _known_fit(fit: str) -> str:
    if not re.fullmatch("resize|crop|pad|centre [1-9][0-9]{0,4}", fit):
        raise ValueError("allowed are resize, crop, pad and 'centre PIXELS'")
    return fit


Fit = Annotated[str, AfterValidator(_known_fit)]
"""How an image is brought to another size: `resize`, `crop`, `pad` or `centre PIXELS`; see `decode`."""
Codec = Literal["png", "jpeg", "webp"]
"""The kinds of image files that can be written."""
EXTENSIONS: dict[Codec, tuple[str, ...]] = {"png": ("png",), "jpeg": ("jpg", "jpeg"), "webp": ("webp",)}
"""The extensions of each codec, the usual one first."""
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""The kinds of image files that can be read, by Pillow's names."""
LARGEST_IMAGE = 89_478_485
"""Pixels of an image, at most, which is Pillow's own limit. A larger one is refused before it is decoded: 30,000 ×
30,000 pixels would take 2.7 GB."""
SMALL = 128
"""Below this many pixels a side, PNG costs little and loses nothing; above it, JPEG and WebP save time."""


class Undecodable(Exception):
    """Raised where bytes are no complete image of an allowed kind and size; the message says why."""


def decode(data: bytes, size: tuple[int, int] | None = None, fit: Fit = "resize") -> tuple[Pixels8, Frame]:
    """Decodes image bytes to uint8 RGB `[H, W, 3]`, fitted to `size`, and says in a `Frame` how it was fitted.

    `size` is (height, width); None leaves the image as it is. The EXIF orientation is applied, transparency is laid
    over white, 16-bit grey is scaled to 8 bits, and of an animation the first frame is taken. `resize` stretches the
    image; `crop` keeps its centre; `centre 128` keeps 128 pixels (of the shorter side of `size`) around the centre, or
    all there are; `pad` repeats the border. Raises `Undecodable`.
    """
    image = _open(data)
    pixels, seen, box = fitted(image, size, fit, Image.Resampling.BICUBIC)
    mode: Literal["L", "RGB"] = "L" if image.mode == "L" else "RGB"
    return pixels, Frame(mode=mode, full=image.size, size=seen, box=box)


def decoded_bytes(data: bytes) -> int:
    """Bytes that it takes to decode an image, about, by its header: 3 a pixel, and as many on the way; 0 for none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return 6 * image.width * image.height if image.width * image.height <= LARGEST_IMAGE else 0
    except Exception:  # decoding says what is wrong with it
        return 0


def decode_mask(data: bytes, full: tuple[int, int], size: tuple[int, int], fit: Fit = "resize") -> Pixels8:
    """Decodes the mask of an image to uint8 `[H, W]` of 0 and 1, fitted to `size` (height, width) like the image.

    The mask has the size of the image, `full` (width, height), or the model's `size`. Raises `Undecodable` for another
    size, and for values other than black and white.
    """
    image = _open(data).convert("L")
    if image.size not in (full, size[::-1]):
        allowed = f"{full[0]} × {full[1]}, the image's, or {size[1]} × {size[0]}, the model's"
        raise Undecodable(f"the mask measures {image.width} × {image.height}; allowed is {allowed}")
    try:
        mask = Image.fromarray(read_mask(np.asarray(image)).astype(np.uint8))
    except ValueError as error:
        raise Undecodable(str(error)) from None
    return fitted(mask, size, fit if image.size == full else "resize", Image.Resampling.NEAREST)[0][..., 0]


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


def fitted(
    image: Image.Image, size: tuple[int, int] | None, fit: Fit, resampling: Image.Resampling
) -> tuple[Pixels8, tuple[int, int], Box]:
    """Fits an image to `size` (height, width): uint8 RGB `[H, W, 3]`, the size of the part seen, and its place.

    The last two are as in `Frame`.
    """
    if size is None:
        return _rgb(image), image.size, (0, 0, *image.size)
    target, seen = (size[1], size[0]), image.size
    box = (0, 0, *target)
    if fit.startswith(("crop", "centre")):
        side = min(image.width / target[0], image.height / target[1])
        if fit != "crop":
            side = min(side, int(fit.split()[1]) / min(target))
        seen = max(1, round(target[0] * side)), max(1, round(target[1] * side))
        left, top = (image.width - seen[0]) // 2, (image.height - seen[1]) // 2
        image = image.crop((left, top, left + seen[0], top + seen[1]))
    elif fit == "pad":
        scale = min(target[0] / image.width, target[1] / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        left, top = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
    image = resized(image, (box[2] - box[0], box[3] - box[1]), resampling)
    margins = (box[1], target[1] - box[3]), (box[0], target[0] - box[2])
    pixels = np.pad(_rgb(image), (*margins, (0, 0)), mode="edge") if fit == "pad" else _rgb(image)
    return pixels, seen, box


def encode(
    pixels: Pixels8, frame: Frame, *, codec: Codec | None, quality: int, restore_size: bool
) -> tuple[bytes, Codec]:
    """Encodes uint8 RGB `[H, W, 3]` in the mode that the source had; returns the bytes and the codec used.

    The margin of a padded image is cut off. `restore_size` scales back to the size in the source. Where `codec` is
    None, it is PNG below 128 pixels a side, else JPEG. `quality`, 1 to 100, is for JPEG and WebP. No metadata is
    written.
    """
    left, top, right, bottom = frame.box
    image = Image.fromarray(pixels[top:bottom, left:right])
    if restore_size:
        image = resized(image, frame.size)
    if frame.mode == "L":
        image = image.convert("L")
    chosen: Codec = codec or ("png" if max(image.size) < SMALL else "jpeg")
    buffer = io.BytesIO()
    if chosen == "png":
        image.save(buffer, "PNG", compress_level=1)
    elif chosen == "jpeg":
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue(), chosen


def image_ext(source_ext: str, codec: Codec) -> str:
    """The extension of the output's member: the source's where it fits the codec, else with its last part replaced."""
    prefix, dot, last = source_ext.rpartition(".")
    return source_ext if last.lower() in EXTENSIONS[codec] else prefix + dot + EXTENSIONS[codec][0]


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


def _open(data: bytes) -> Image.Image:
    """The decoded image in mode L or RGB, upright."""
    if not data:
        raise Undecodable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > LARGEST_IMAGE:
            raise Image.DecompressionBombError(f"{image.width} × {image.height} pixels")
        image.load()
        return _plain(_upright(image))
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable(f"the image is too large ({_short(error)}); {LARGEST_IMAGE} pixels are allowed") from None
    except Exception as error:  # a damaged file can break a decoder anywhere: the fault is the data's
        kind = "no image of a known format" if isinstance(error, UnidentifiedImageError) else "damaged image"
        raise Undecodable(f"{kind} ({_short(error)}); allowed are {', '.join(FORMATS)}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # the picture is sound, only its EXIF block is not
        return image
    return image


def _rgb(image: Image.Image) -> Pixels8:
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


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


def resized(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The image at `size` (width, height); itself where it has that size."""
    return image if image.size == size else image.resize(size, resampling)


def _short(error: Exception) -> str:
    text = str(error).split("<_io")[0].strip() or type(error).__name__
    return text[:200]
