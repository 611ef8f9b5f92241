"""What is to be said of how a sample was understood, in sentences that name no sample; see `Row.notes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.media.frame import Frame

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

FACTOR = 2
"""By how much the sides of images and of the model's input may differ before it is said."""
LARGER = "the image has more than twice as many pixels a side as the model sees, so that its detail is lost"
SMALLER = "the image has less than half as many pixels a side as the model sees, so that it is blurred there"
NOTHING_CHANGES = "the mask is empty, so that nothing of the image may change"
ALL_CHANGES = "the mask is full, so that all of the image may change"


def of_resolution(frame: Frame) -> tuple[str, ...]:
    """Whether a model sees an image at quite another resolution than its own."""
    left, top, right, bottom = frame.box
    shrunk = [part / side for part, side in zip(frame.seen, (right - left, bottom - top), strict=True)]
    return ((LARGER,) if max(shrunk) > FACTOR else ()) + ((SMALLER,) if min(shrunk) < 1 / FACTOR else ())


def of_mask(mask: Pixels8 | None) -> tuple[str, ...]:
    """Whether a mask, uint8 `[H, W]` of 0 and 1, is all of one kind."""
    if mask is None or mask.min() != mask.max():
        return ()
    return (ALL_CHANGES if mask.max() else NOTHING_CHANGES,)
