"""How a neighbour lies in an item: turned as its image is, and refused where it shows another part of the source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.hooks.contents import content_of, image_of, label_of
from pipeline.hooks.items import KEY_FIELDS, image_field, label_field, turned_back
from pipeline.hooks.sources import Source
from pipeline.media.frame import Frame, Size

DISTORTED = 1.05
"""By so much, at most, a neighbour may be stretched more in one direction than in the other."""


@runtime_checkable
class Framed(Protocol):
    """A store that knows what its neighbours show of their sources."""

    def frame(self, key: str) -> Frame | None:
        """How the source lies in the neighbours of that key; None where they show it whole, stored upright."""
        ...


def placed(neighbour: Image.Image, item: Any, frame: Frame, source: Source | None) -> Image.Image:
    """The neighbour as it takes the place of the item's image, whose boxes, masks and labels stay true.

    Raises `UserError` where it shows a part of the source, unless the item has no more than image and label and its
    image has the proportions of that part; and where a photograph that was stored turned may be upright or not.
    """
    image = image_of(item)
    size = size_of(image)
    if size is None:
        return neighbour
    if frame.window != (0, 0, *frame.full) and (holds_places(item) or not alike(size, frame.seen)):
        left, top, right, bottom = frame.window
        raise UserError(
            f"the store's neighbours show a part of their sources only (x {left} to {right}, y {top} to {bottom} of "
            f"{frame.full[0]} × {frame.full[1]}); beside boxes, masks and the like, or in an image of other "
            f"proportions (this one is {size[0]} × {size[1]}), they would be wrong: run the job with image.fit: pad or "
            "resize, or say with swap how a neighbour is put into an item"
        )
    if frame.orientation == 1 or isinstance(image, Image.Image):  # Pillow's images say themselves how they are turned
        return neighbour
    upright, stored = alike(size, frame.full), alike(size, frame.stored)
    if upright and stored:
        content = content_of(item)
        if not (content and source and source.content and content.startswith(source.content)):
            raise UserError(
                f"a photograph was stored turned (EXIF orientation {frame.orientation}), and its item does not tell "
                "whether it is upright: apply PIL.ImageOps.exif_transpose before it becomes a tensor, and give it in "
                "full size, or leave transforms to transform="
            )
    return neighbour if upright else turned_back(neighbour, frame.orientation)


def size_of(image: Any) -> Size | None:
    """Width and height of an image, as `items.alike` takes it; None for what it does not take."""
    if isinstance(image, Image.Image):
        return image.size
    if isinstance(image, Tensor | np.ndarray) and image.ndim in (2, 3):
        first = image.ndim - 2 if isinstance(image, Tensor) else 0
        return int(image.shape[first + 1]), int(image.shape[first])
    return None


def alike(size: Size, other: Size) -> bool:
    """Whether two sizes have about the same proportions."""
    stretched = size[0] * other[1] / max(1, size[1] * other[0])
    return 1 / DISTORTED <= stretched <= DISTORTED


def holds_places(item: Any) -> bool:
    """Whether an item has more beside its image than a label, names and numbers: boxes, masks, points, annotations."""
    if isinstance(item, Mapping):
        known = {image_field(item), label_field(item), *KEY_FIELDS}
        beside = [value for field, value in item.items() if field not in known and not field.startswith("__")]
    else:
        beside = list(item[1:]) if label_of(item) is None else list(item[2:])
    return any(not is_plain(value) for value in beside)


def is_plain(value: Any) -> bool:
    """Whether a value is one number, a text, or nothing."""
    return isinstance(value, str | bytes | int | float | np.generic | None) or getattr(value, "ndim", None) == 0
