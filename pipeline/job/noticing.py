"""What is to be said of how a job and its samples were understood, in sentences that name no sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.media.frame import Frame
from pipeline.models.families import trained_size

if TYPE_CHECKING:
    from pipeline.job.plan import Plan
    from pipeline.media.records import Pixels8, Sample

FACTOR = 2
"""The sides of images and of the model's input may differ by this factor before it is said."""
NAMED = 3
"""Files that a note names, at most."""
LARGER = "the image has more than twice as many pixels a side as the model sees, so that its detail is lost"
SMALLER = "the image has less than half as many pixels a side as the model sees, so that it is blurred there"
NO_CLASS = (
    "the image has no class and is written into a folder, which imagefolder takes for a class: load it with "
    "drop_labels=True; output.format: parquet keeps members as columns"
)
BESIDE = (
    "output: members are written into folders beside the images, as they were read; imagefolder passes over them, "
    "and takes pictures among them for images (output.format: parquet or webdataset keeps them with their image)"
)
NOTHING_CHANGES = "the mask is empty, so that nothing of the image may change"
ALL_CHANGES = "the mask is full, so that all of the image may change"


def of_plan(plan: Plan) -> tuple[str, ...]:
    """What is known before work starts: what percentiles stand for, and a size that is far from the network's."""
    notes, model = list[str](), plan.config.model
    if plan.found is not None:
        notes.append("image.range: the percentiles are {:g} and {:g}".format(*plan.found))
    if model is not None and model.size is not None and (trained := trained_size(model)) is not None:
        sides = [side / known for side, known in zip(model.size, trained, strict=True)]
        if max(sides) > FACTOR or min(sides) < 1 / FACTOR:
            notes.append(
                f"model.size is {model.size[0]} × {model.size[1]}, and the network was trained at {trained[0]} × "
                f"{trained[1]}: more than a factor of {FACTOR} away, it may paint what does not hang together"
            )
    return tuple(notes)


def of_left_out(files: Sequence[str], *, secret: bool) -> tuple[str, ...]:
    """What is said of files of the input that belong to no sample; they may be named unless they are `secret`."""
    if not files:
        return ()
    named = "" if secret else ", such as " + ", ".join(map(ascii, files[:NAMED]))
    return (f"input: files that belong to no sample and are left out: {len(files)}{named}",)


def of_place(format: str, sample: Sample) -> tuple[str, ...]:
    """What readers make of the place that a sample is written to."""
    lies_alone = sample.label in (None, -1) and "/" in sample.full_key
    return (NO_CLASS,) if format == "folder" and lies_alone else ()


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
