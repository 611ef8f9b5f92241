"""What the released images are good for, measured on what an audit has read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.attacks import utility
from pipeline.anonymity.attacks.features_kept import attributes_kept, landmark_error
from pipeline.anonymity.attacks.figures import TaskFigures
from pipeline.audit.gathering import Held, Seen
from pipeline.audit.results import Likeness, UtilityFigures

if TYPE_CHECKING:
    from pipeline.anonymity.faces.detect import Face, FaceFinder
    from pipeline.media.records import Pixels8

JUDGED = 300
"""Pairs whose faces are compared, at most."""


def useful(seen: Seen, finder: FaceFinder) -> UtilityFigures:
    """Measures faces and pose on all images, and likeness and labels on the pairs with pixels."""
    pairs = seen.pairs
    likeness = [utility.psnr(a, b) for a, b in zip(pairs.released, pairs.sources, strict=True)]
    finite = [value for value in likeness if np.isfinite(value)]
    ours, theirs = _faces(pairs, finder)
    attributes = utility.attribute_agreement([face.crop for face in ours], [face.crop for face in theirs])
    mean = float(np.mean(finite)) if finite else None
    return UtilityFigures(
        faces=utility.detector_recall(seen.pairing),
        pose=utility.pose_error(seen.pairing),
        psnr=Likeness(pairs=len(likeness), mean=mean, unchanged=len(likeness) - len(finite)),
        landmarks=landmark_error(ours, theirs),
        attributes=attributes | attributes_kept(ours, theirs),
        task=_task(seen),
    )


def _task(seen: Seen) -> TaskFigures | None:
    """Trained on releases of every other original, tested on the originals between them."""
    rows, pairs = seen.pairs.rows, seen.pairs
    sources = seen.pairing.source[rows]
    learnt, tested = list[tuple["Pixels8", int]](), list[tuple["Pixels8", int]]()
    for i, (row, source) in enumerate(zip(rows, sources, strict=True)):
        label, truth = seen.released_labels[row], seen.labels[source]
        if source % 2 == 0 and label is not None:
            learnt.append((pairs.released[i], label))
        if source % 2 and truth is not None:
            tested.append((pairs.sources[i], truth))
    if not learnt or not tested:
        return None
    (images, labels), (real, truths) = zip(*learnt, strict=True), zip(*tested, strict=True)
    return utility.task_accuracy(images, labels, real, truths)


def _faces(pairs: Held, finder: FaceFinder) -> tuple[list[Face], list[Face]]:
    """The largest face of each released image and of its source, where both have one."""
    found = [finder.find(side[:JUDGED]) for side in (pairs.released, pairs.sources)]
    both = [(a[0], b[0]) for a, b in zip(*found, strict=True) if a and b]
    return [a for a, _ in both], [b for _, b in both]
