"""The bound of a finished job, measured at the levels that its images were made at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.bound.figures import SourceBound, TrainingCheck
from pipeline.anonymity.bound.gaussian import one_look
from pipeline.anonymity.bound.measuring import Round, figures
from pipeline.engine.bounding import gather, hiding, no_bound
from pipeline.errors import UserError
from pipeline.models.folder import find_model
from pipeline.models.training_set import read_training_set
from pipeline.release.copies import closest
from pipeline.release.finished_job import Made, MadeImage

if TYPE_CHECKING:
    from pipeline.anonymity.faces.table import FaceTable
    from pipeline.job.plan import Plan


def source_bound(plan: Plan, table: FaceTable) -> SourceBound:
    """The bound on attackers who hold the originals whose faces are in `table`, or why there is none.

    Each original counts as noised once for every copy and attempt of the job, at the very level where that is known.
    Raises `UserError` where the recipe asked for a bound, and the job does not keep it.
    """
    weights = training_check(plan, table)
    if (reason := no_bound(plan)) is not None:
        return SourceBound.of(reason, None, weights)
    originals, rounds, asked = gather(plan), hiding(plan), plan.bound
    sigma, released = looks(list(Made.by(Path(plan.config.output.path)).entries(())), originals.keys, rounds)
    found = figures(originals, sigma, [Round(*pair) for pair in zip(rounds, released, strict=True)], asked)
    if asked is not None and found.rank_1.high > asked:
        raise UserError(
            f"operator.{plan.config.operator and plan.config.operator.dial}: a bound of {asked:g} was asked for, and "
            f"now the best attacker may find {found.rank_1.high:.2%} of the sources: the input has changed since the "
            "level was found; --overwrite finds another"
        )
    return SourceBound.of(None, found, weights)


def looks(made: list[MadeImage], keys: tuple[str, ...], rounds: list[float]) -> tuple[np.ndarray, list[int]]:
    """The level that hides each original in `keys [N]`, all looks taken as one; and how many passed in each round.

    Rounds that failed count with the least noise that they may have had; what never passed counts with all rounds.
    """
    by_source = dict[str, list[MadeImage]]()
    for image in made:
        by_source.setdefault(image.source, []).append(image)
    passed = Counter(images[0].attempt for images in by_source.values())

    def hidden(key: str) -> float:
        if key not in by_source:
            return one_look(rounds)
        images = by_source[key]
        return one_look([*rounds[: images[0].attempt], *(image.sigma or 0.0 for image in images)])

    return np.array([hidden(key) for key in keys]), [passed[number] for number in range(len(rounds))]


def training_check(plan: Plan, table: FaceTable) -> TrainingCheck:
    """Looks for near-copies of the originals among the training images that the model's folder lists.

    Nothing is known where it lists none, or has them hashed at another size or fit than the job's.
    """
    assert plan.config.model is not None
    listed = read_training_set(find_model(plan.config.model))
    if listed is None or (listed.size, listed.fit) != (plan.size, plan.rules.fit):
        return TrainingCheck(images=None, seen=None)
    bits = closest(table.phash, np.array(listed.hashes, dtype=np.uint64))
    return TrainingCheck(images=len(listed.hashes), seen=int((bits <= NEAR).sum()))


NEAR = 4
"""An original counts as seen where its perceptual hash differs from a training image's in at most so many bits."""
