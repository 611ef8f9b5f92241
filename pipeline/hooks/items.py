"""The items that data sets give: where their image and key are, and how a neighbour takes the image's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.media.fitting import resized
from pipeline.media.records import full_key
from pipeline.streams.shard_names import shard_name
from pipeline.streams.shards import IMAGE_EXTENSIONS

IMAGE_FIELDS = ("image", "img", "images", "pixel_values", *IMAGE_EXTENSIONS)
"""The fields of a dict that may hold its image."""
KEY_FIELDS = ("__key__", "key")
"""The fields of a dict that may hold its key, the first one that is there."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for a number of channels."""
SHALLOW = ("1", "L", "P", "RGB", "RGBA")
"""Pillow's modes that a neighbour can be given in: 0 to 255 means the same in them."""
TURNING = Image.Transpose
BACK = {
    2: TURNING.FLIP_LEFT_RIGHT, 3: TURNING.ROTATE_180, 4: TURNING.FLIP_TOP_BOTTOM, 5: TURNING.TRANSPOSE,
    6: TURNING.ROTATE_90, 7: TURNING.TRANSVERSE, 8: TURNING.ROTATE_270,
}  # fmt: skip
"""What turns an upright image as it is stored, by its EXIF orientation."""

Key = str | Callable[..., str] | None
"""A format string of the index and an item's fields, such as `"{:05d}"` or `"{id}"`, or a function of item and index.
None takes the field `__key__` or `key`; of items that tell the tar they came from (`__url__`), as those of WebDataset
do, it is SHARD/KEY."""


def has_key(key: Key, item: Any) -> bool:
    """Whether `key_of` can tell a key, by what it is given or by a field of the item."""
    return key is not None or (isinstance(item, Mapping) and not item.keys().isdisjoint(KEY_FIELDS))


def key_of(key: Key, item: Any, *index: int) -> str:
    """The key that an item has in the job's input; `index` is left out where an item has no index that means anything.

    Raises `UserError` where the key cannot be told.
    """
    if callable(key):
        return key(item, *index)
    fields: Mapping[str, Any] = item if isinstance(item, Mapping) else {}
    if key is not None:
        try:
            return key.format(*index, **fields)
        except (LookupError, ValueError) as error:
            known = ", ".join([*("the index" for _ in index), *fields]) or "nothing"
            raise UserError(f"key {key!r} does not fit an item ({error}); it is made from {known}") from None
    if {"__key__", "__url__"} <= fields.keys():
        return full_key(shard_name(fields["__url__"]), fields["__key__"])
    for field in KEY_FIELDS:
        if field in fields:
            return str(fields[field])
    raise UserError(f"items have no field {' or '.join(KEY_FIELDS)}: say with key how the input of the job names them")


def image_field(fields: Mapping[str, Any]) -> str:
    """The name of the field with the image. Raises `UserError` unless exactly one field may be it."""
    found = [field for field in IMAGE_FIELDS if field in fields]
    if len(found) != 1:
        raise UserError(f"fields {', '.join(fields)}: exactly one of {', '.join(IMAGE_FIELDS)} is expected")
    return found[0]


def label_field(fields: Mapping[str, Any]) -> str | None:
    """The name of the field with labels: `labels`, else the first with "label" in its name, as in torchvision, or
    WebDataset's `cls`."""
    named = [field for field in fields if "label" in field.lower() or field == "cls"]
    return next((field for field in named if field.lower() == "labels"), named[0] if named else None)


def swapped(item: Any, neighbour: Image.Image) -> Any:
    """An item with `neighbour` in place of its image, in the same type and size.

    The item is a tuple or list that begins with the image, or a dict. Raises `UserError` where no image is found.
    """
    if isinstance(item, Mapping):
        field = image_field(item)
        return {**item, field: alike(neighbour, item[field])}
    if not isinstance(item, tuple | list) or not item:
        raise UserError(f"an item is {type(item).__name__}; a tuple that begins with the image, or a dict, is expected")
    return rebuilt(item, [alike(neighbour, item[0]), *item[1:]])


def rebuilt(like: Sequence[Any], values: list[Any]) -> Sequence[Any]:
    """The values as a list, a tuple or a named tuple, whichever `like` is."""
    return values if isinstance(like, list) else type(like)(*values) if hasattr(like, "_fields") else tuple(values)


def alike(neighbour: Image.Image, image: Any) -> Any:
    """Turns the upright `neighbour` into what `image` is, in its size and mode.

    `image` may be a PIL image, a tensor `[H, W]` or `[C, H, W]`, or an array `[H, W]` or `[H, W, C]`, with uint8 in [0,
    255] or floats in [0, 1]. Raises `UserError` for anything else, such as bytes still to be decoded, or an image that
    is already normalised or has more than 8 bits a pixel. A PIL image that is still stored turned, as its EXIF block
    says, gets a neighbour that is turned, and says so, in the same way.
    """
    if isinstance(image, Image.Image):
        return as_picture(neighbour, image)
    if isinstance(image, Tensor):
        first = (1, 2, 0) if image.ndim == 3 else range(image.ndim)
        pixels = torch.from_numpy(fitted(neighbour, tuple(image.shape[i] for i in first)))
        pixels = pixels.movedim(-1, 0) if image.ndim == 3 else pixels
        return as_tensor(pixels, image)
    if isinstance(image, np.ndarray):
        like = torch.from_numpy(image)
        return as_tensor(torch.from_numpy(fitted(neighbour, image.shape)), like).numpy()
    raise UserError(f"an image is {type(image).__name__}; PIL, a tensor or an array is expected (decode it first)")


def as_picture(neighbour: Image.Image, like: Image.Image) -> Image.Image:
    """The neighbour in size, mode and orientation of another PIL image. Raises `UserError` for modes not in `SHALLOW`.

    Among them are those of more than 8 bits a pixel.
    """
    if like.mode not in SHALLOW:
        raise UserError(
            f"an image has mode {like.mode}, and neighbours have 8 bits a pixel: give it in mode "
            f"{', '.join(SHALLOW[:-1])} or {SHALLOW[-1]}, with the values that image.range of the job makes of it"
        )
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation = like.getexif().get(ExifTags.Base.Orientation, 1)
    picture = resized(turned_back(neighbour, orientation), like.size).convert(like.mode)
    if orientation in BACK:
        picture.info["exif"] = exif.tobytes()
    return picture


def turned_back(image: Image.Image, orientation: int) -> Image.Image:
    """An upright image as a file with that EXIF orientation stores it."""
    return image.transpose(BACK[orientation]) if orientation in BACK else image


def fitted(neighbour: Image.Image, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The neighbour as uint8 of a `shape` `[H, W]` or `[H, W, C]`.

    Raises `UserError` unless there are 1, 3 or 4 channels.
    """
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in MODES:
        raise UserError(f"an image has shape {list(shape)}; 1, 3 or 4 channels are expected")
    picture = resized(neighbour, (shape[1], shape[0])).convert(MODES[channels])
    return np.array(picture).reshape(shape)


def as_tensor(pixels: Tensor, like: Tensor) -> Tensor:
    """uint8 pixels as a tensor of the type of `like`, on its device: uint8 in [0, 255] or floats in [0, 1].

    Raises `UserError` where `like` is of another type, or holds floats outside [0, 1].
    """
    if like.is_floating_point():
        check_range(like)
        pixels = pixels.to(like.dtype) / 255
    elif like.dtype != torch.uint8:
        raise UserError(f"an image holds {like.dtype}; uint8 or floats are expected")
    pixels = pixels.contiguous().to(like.device)
    if type(like) is Tensor:
        return pixels
    from torchvision.tv_tensors import wrap

    return wrap(pixels, like=like)


def check_range(images: Tensor) -> None:
    """Raises `UserError` for floats outside [0, 1], which mean that the images have been normalised."""
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise UserError(f"images hold floats from {low:.3g} to {high:.3g}; [0, 1] is expected: normalise afterwards")
