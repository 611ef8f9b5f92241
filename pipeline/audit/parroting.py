"""Running a release's operator again, on photographs and with a salt of an attacker's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.anonymity.attacks.parrot import drawn_levels
from pipeline.audit.task import Audit
from pipeline.diffusion.exactness import exact
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.noise import KeyedNoise
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.operators import AnyOperator, Given, Operator
from pipeline.operators.on_cascades import through

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SALT, BATCH = b"the salt of an attacker", 16
"""The attacker's own salt, and images that are put through the operator at a time."""


def operator_of(task: Audit) -> Operator | str:
    """The operator that RELEASE.json names; or, as a sentence, why an attacker cannot run it on photographs alone."""
    facts: dict[str, Any] = task.manifest.facts
    if task.model is None:
        return "the job's model was not given"
    try:
        operator: Operator = TypeAdapter(AnyOperator).validate_python(facts.get("operator"))
    except ValidationError:
        return "RELEASE.json names no operator of this version"
    if facts.get("faces_only"):
        return "the job changed faces only"
    if operator.needs:
        return f"operator {operator.name} needs {', '.join(sorted(operator.needs))} beside the image"
    return operator


@torch.inference_mode()
@exact()
def parroted(
    task: Audit, operator: Operator, images: Sequence[Pixels8], labels: Sequence[int | None], device: str
) -> list[Pixels8]:
    """What the operator makes of images, uint8 `[H, W, 3]`, at levels as frequent as those of the release.

    A model of classes is told the label of each image, where that is known; a model of prompts is told nothing.
    """
    from pipeline.models.config import ModelConfig
    from pipeline.models.families import load_model

    assert task.model is not None
    model = load_model(ModelConfig(path=task.model), device)
    levels = drawn_levels(task.manifest.counts.released_by_level, len(images))
    made = dict[int, "Pixels8"]()
    for level in dict.fromkeys(levels):
        rows = [i for i, own in enumerate(levels) if own == level]
        own = operator if level is None or operator.dial is None else operator.at(LevelRange(low=level, high=level))
        for part in (rows[first : first + BATCH] for first in range(0, len(rows), BATCH)):
            pixels = to_pixels([images[i] for i in part], device)
            classes = torch.tensor([-1 if (label := labels[i]) is None else label for i in part], device=device)
            noise = KeyedNoise(SALT, [str(i) for i in part], operator.name, 0)
            given = Given(pixels=pixels, labels=classes)
            done = through(own, model, model.encode(pixels), given, noise)
            made |= zip(part, from_pixels(done.pixels), strict=True)
    return [made[i] for i in range(len(images))]
