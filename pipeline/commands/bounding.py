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
from pipeline.media.looks import near_copies
from pipeline.models.folder import find_model
from pipeline.models.training_set import read_training_set
from pipeline.release.finished_job import Made, MadeImage

if TYPE_CHECKING:
    from pipeline.anonymity.bound.measuring import Originals
    from pipeline.job.plan import Plan
    from pipeline.models.config import ModelConfig


def source_bound(plan: Plan, job: Path) -> SourceBound:
    """The bound on attackers who hold the originals of a finished job in the folder `job`, or why there is none.

    Each original counts as noised once for every copy and attempt of the job, at the very level where that is known.
    Raises `UserError` where the recipe asked for a bound, and the job does not keep it.
    """
    if (reason := no_bound(plan)) is not None:
        return SourceBound.of(reason, None, None)
    assert plan.config.model is not None
    originals, rounds, asked = gather(plan), hiding(plan), plan.bound
    sigma, released = looks(list(Made.by(job).entries(())), originals.keys, rounds)
    found = figures(originals, sigma, [Round(*pair) for pair in zip(rounds, released, strict=True)], asked)
    if asked is not None and found.rank_1.high > asked:
        raise UserError(
            f"operator.{plan.config.operator and plan.config.operator.dial}: a bound of {asked:g} was asked for, and "
            f"now the best attacker may find {found.rank_1.high:.2%} of the sources: the input has changed since the "
            "level was found; --overwrite finds another"
        )
    return SourceBound.of(None, found, training_check(plan.config.model, originals))


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


def training_check(config: ModelConfig, originals: Originals) -> TrainingCheck:
    """Looks for near-copies of the originals among the training images that the model's folder tells of.

    What adapters were trained on is known of none.
    """
    marks = None if config.lora or config.textual_inversion else read_training_set(find_model(config))
    if marks is None or "looks" not in marks:
        return TrainingCheck(images=None, seen=None)
    seen = int(near_copies(originals.looks, marks["looks"]).sum())
    return TrainingCheck(images=len(marks["looks"]), seen=seen)
