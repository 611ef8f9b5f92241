"""What a person or a script would try first to see who is in an image: the gate tries it, too, before it says anything.

An image may hide a person from a detector and a recogniser and yet be of the person: as a negative, or turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter, ImageOps

if TYPE_CHECKING:
    from pipeline.anonymity.faces.detect import Face
    from pipeline.media.records import Pixels8

Change = Callable[["Pixels8"], "Pixels8"]
"""Changes uint8 `[H, W, 3]` into such an image again; a quarter turn exchanges H and W."""
SMOOTHED = 40
"""The standard deviation of the small blur is the shorter side divided by this: 1.6 pixels of 64."""


@dataclass(frozen=True, kw_only=True)
class Undoing:
    """Something that is done to an image before it is looked at again."""

    change: Change
    searched: bool
    """Whether faces are searched for anew afterwards; else those that were found are changed themselves."""


def turned(quarters: int) -> Change:
    """A turn by so many quarters, against the clock."""
    return lambda image: np.ascontiguousarray(np.rot90(image, quarters))


def equalised(image: Pixels8) -> Pixels8:
    """Each channel with a flat histogram: light, contrast and tints are gone."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def denoised(image: Pixels8) -> Pixels8:
    """A median of 3 × 3 pixels and then a small blur: noise, and the blocks of JPEG, are gone."""
    radius = min(image.shape[:2]) / SMOOTHED
    smooth = Image.fromarray(image).filter(ImageFilter.MedianFilter(3)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(smooth)


def changed(face: Face, undoing: Undoing) -> Face:
    """The pictures of a face, changed."""
    chip, square = (None if one is None else undoing.change(one) for one in (face.chip, face.square))
    return replace(face, crop=undoing.change(face.crop), chip=chip, square=square)


UNDOINGS: dict[str, Undoing] = {
    "negative": Undoing(change=lambda image: 255 - image, searched=True),
    "quarter turn": Undoing(change=turned(1), searched=True),
    "half turn": Undoing(change=turned(2), searched=True),
    "three quarter turns": Undoing(change=turned(3), searched=True),
    "equalised": Undoing(change=equalised, searched=False),
    "denoised": Undoing(change=denoised, searched=False),
}
"""By name, all that is tried on each output that would pass. Mirror images need none: recognisers know them as they
are."""
