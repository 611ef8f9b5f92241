"""What the items of a data set show: their image as a picture, the hash of its content, and their label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.hooks.items import MODES, image_field, label_field
from pipeline.media.contents import content_hash
from pipeline.media.opening import Undecodable, seen_image


def content_of(item: Any) -> str | None:
    """The hash of the content of an item's image, as a job took it of the source; None where it cannot be told.

    So it is for images that are still encoded, normalised, or no images of 8 bits.
    """
    picture = picture_of(item)
    return None if picture is None else content_hash(picture)


def picture_of(item: Any) -> Image.Image | None:
    """The image of an item in mode L or RGB, upright; None where it cannot be told."""
    image = image_of(item)
    if isinstance(image, Image.Image):
        try:
            return seen_image(image)
        except Undecodable:
            return None
    if isinstance(image, Tensor):
        image = (image.movedim(0, -1) if image.ndim == 3 else image).detach().cpu().as_subclass(Tensor)
    elif isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())
    else:
        return None
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            return None
        image = (image.double() * 255).round().to(torch.uint8)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != torch.uint8 or image.ndim not in (2, 3) or channels not in MODES or not image.numel():
        return None
    array = image.contiguous().numpy()
    return seen_image(Image.fromarray(array[..., 0] if image.ndim == 3 and channels == 1 else array))


def image_of(item: Any) -> Any:
    """The image of an item, a tuple or list that begins with it or a dict; None where there is none."""
    if isinstance(item, Mapping):
        try:
            return item[image_field(item)]
        except UserError:
            return None
    return item[0] if isinstance(item, tuple | list) and item else None


def label_of(item: Any) -> int | None:
    """The number of an item's class: what comes after the image, or its field with labels; None where there is none."""
    if isinstance(item, Mapping):
        field = label_field(item)
        label = None if field is None else item[field]
    else:
        label = item[1] if isinstance(item, tuple | list) and len(item) > 1 else None
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    return int(label) if isinstance(label, int | np.integer) and not isinstance(label, bool) else None
