"""Image bytes as pixels that can be seen: 8 bits, grey or RGB in sRGB, upright, without transparency."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError

from pipeline.media.depth import MOST16, Deep, deep, is_deep
from pipeline.media.frame import TURNS
from pipeline.media.profiles import to_srgb
from pipeline.media.rules import PLAIN, PixelRules, Range

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""The kinds of image files that can be read, by Pillow's names."""
LARGEST_IMAGE = 89_478_485
"""Pixels of an image, at most, which is Pillow's own limit. A larger one is refused before it is decoded: 30,000 ×
30,000 pixels would take 2.7 GB."""
SMALLER_OR_MASK = 254, 0b101
"""The tag of a TIFF for the kind of a page, and its bits for smaller copies and for masks."""
SEVERAL_PICTURES = "MPO"
"""Pillow's name for a JPEG that holds several pictures: phones and stereo cameras write previews and depth into it."""

DEEP = "more than 8 bits a pixel were brought to 8, as image.range says"
MORE = "the file has more pages or frames than the first, which alone is read; image.frames: all reads all of them"
FLATTENED = "transparent pixels were laid over image.background"
CONVERTED = "the colours were converted to sRGB from the profile in the file"
NO_PROFILE = "the colour profile in the file is damaged or of another kind of image; it was ignored"
INKS = "CMYK without a colour profile was converted by the plain formula"


class Undecodable(Exception):
    """Raised where bytes are no complete image of an allowed kind and size; the message says why."""


class Opened(NamedTuple):
    """An image as it can be seen."""

    image: Image.Image
    """The image in mode L or RGB, upright."""
    orientation: int
    """The EXIF orientation that it has in its file, 1 to 8; 1 is upright."""
    notes: tuple[str, ...]
    """What people should know of how it was understood; see `Row.notes`."""


def decoded_bytes(data: bytes) -> int:
    """Bytes that it takes to decode an image, about, by its header: 6 a pixel, 24 where it is deep; 0 for no image."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            return (24 if is_deep(image) else 6) * pixels if pixels <= LARGEST_IMAGE else 0
    except Exception:  # decoding says what is wrong with it
        return 0


def open_image(data: bytes, rules: PixelRules = PLAIN) -> Opened:
    """The decoded image in mode L or RGB, upright, as `rules` say. Raises `Undecodable`."""
    with reading(data) as image:
        notes = list[str]()
        if rules.frames == "first" and has_more(image):
            notes.append(MORE)
        turned = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation)  # Pillow turns a TIFF while it loads it
        whole = image
        if is_deep(image):
            notes.append(DEEP)
            whole = _shallow(image, data, rules.range)
        whole.load()
        orientation = _upright(whole)
        return Opened(_plain(whole, rules, notes), turned if turned in TURNS else orientation, tuple(notes))


def seen_image(image: Image.Image) -> Image.Image:
    """What `open_image` makes of a decoded image of 8 bits by plain rules. Raises `Undecodable` for one of more."""
    if is_deep(image):
        raise Undecodable("the image has more than 8 bits a pixel")
    whole = image.copy()
    _upright(whole)
    return _plain(whole, PLAIN, [])


def has_more(image: Image.Image) -> bool:
    """Whether an open image is the first of several pages or frames."""
    try:
        if image.format == SEVERAL_PICTURES or not getattr(image, "is_animated", False):
            return False
        return image.format != "TIFF" or len(pages_of(image, most=2)) > 1
    except Exception:  # what follows the first is damaged
        return False


def pages_of(image: Image.Image, most: int) -> list[int]:
    """Where the first `most` pages of an open TIFF begin, without smaller copies and masks; it ends at its first."""
    found = list[int]()
    for page in ImageSequence.Iterator(image):
        tag, bits = SMALLER_OR_MASK
        if not page.tag_v2.get(tag, 0) & bits:  # type: ignore[attr-defined]
            found.append(page._frame_pos[page.tell()])  # type: ignore[attr-defined]
        if len(found) == most:
            break
    image.seek(0)
    return found


def values_of(data: bytes) -> NDArray[Any] | None:
    """The values of an image of more than 8 bits, as they are stored; None for one of 8 bits. Raises `Undecodable`."""
    with reading(data) as image:
        if not is_deep(image):
            return None
        return _all_bits(deep(image, data)).values


@contextmanager
def reading(data: bytes) -> Iterator[Image.Image]:
    """The image in `data`, open and not loaded yet; whatever fails within becomes `Undecodable`."""
    if not data:
        raise Undecodable("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > LARGEST_IMAGE:
            raise Image.DecompressionBombError(f"{image.width} × {image.height} pixels")
        yield image
    except Undecodable:
        raise
    except Image.DecompressionBombError as error:
        raise Undecodable(f"the image is too large ({_short(error)}); {LARGEST_IMAGE} pixels are allowed") from None
    except Exception as error:  # a damaged file can break a decoder anywhere: the fault is the data's
        kind = "no image of a known format" if isinstance(error, UnidentifiedImageError) else "damaged image"
        raise Undecodable(f"{kind} ({_short(error)}); allowed are {', '.join(FORMATS)}") from None


def _shallow(image: Image.Image, data: bytes, meaning: Range | None) -> Image.Image:
    """An image of more than 8 bits as one of 8, with its alpha. Raises `Undecodable` where nobody says how."""
    if meaning is None:
        raise Undecodable(
            "the image has more than 8 bits a pixel, and image.range does not say what is black and what is white; "
            f"allowed are dtype (0 and {MOST16}), [low, high] and a percentile"
        )
    found = deep(image, data)
    if found is None and meaning == "dtype":
        return image
    found = _all_bits(found)
    if meaning == "dtype" and found.bits is None:
        raise Undecodable(
            "image.range: dtype is for whole numbers of 16 bits from 0 on; for floating point, signed numbers and 12 "
            "or 32 bits, give [low, high]"
        )
    if not np.isfinite(found.values).all():
        raise Undecodable("the image has pixels that are no finite numbers")
    low, high = (0.0, float(MOST16)) if meaning == "dtype" else meaning
    pixels = Image.fromarray(found.levels(low, high))
    if found.alpha is not None:
        pixels.putalpha(Image.fromarray(found.alpha))
    pixels.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return pixels


def _all_bits(found: Deep | None) -> Deep:
    if found is None:
        raise Undecodable("of a TIFF in colour of 16 bits only the upper 8 can be read: image.range can only be dtype")
    return found


def _upright(image: Image.Image) -> int:
    """Turns the image upright in place, and returns the orientation that it had."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # the picture is sound, only its EXIF block is not
        return 1
    return orientation if orientation in TURNS else 1


def _plain(image: Image.Image, rules: PixelRules, notes: list[str]) -> Image.Image:
    """Lays what can be seen of an image of 8 bits over the background, in sRGB."""
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    flat = _colours(image, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append(FLATTENED)
        grey = flat.mode == "L" and len(set(rules.colour)) == 1
        over = flat.convert("RGB")
        over.putalpha(alpha)
        behind = Image.new("RGBA", over.size, rules.colour)
        flat = Image.alpha_composite(behind, over).convert("L" if grey else "RGB")
    return flat


def _colours(image: Image.Image, notes: list[str]) -> Image.Image:
    """The colours of an image in mode L or RGB, in sRGB, without its transparency."""
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return ImageCms.applyTransform(image, lab) or image
    if image.mode in ("1", "L", "LA", "La"):
        flat = image.convert("LA").getchannel("L") if image.mode == "La" else image.convert("L")
    elif image.mode == "CMYK":
        flat = image
    else:
        flat = image.convert("RGBA" if image.has_transparency_data else "RGB").convert("RGB")
    if profile:
        seen = to_srgb(flat, profile)
        if seen is None:
            notes.append(NO_PROFILE)
        elif seen is not flat:
            notes.append(CONVERTED)
            return seen
    if flat.mode == "CMYK":
        notes.append(INKS)
        return flat.convert("RGB")
    return flat


def _short(error: Exception) -> str:
    text = str(error).split("<_io")[0].strip() or type(error).__name__
    return text[:200]
