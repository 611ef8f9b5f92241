"""Attempts to undo the operator of a release with what an attacker may know: some pairs, or the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.attacks.figures import InverterFigures, OdeFigures, PermutationFigures
from pipeline.anonymity.attacks.inversion import best_permutation, invert_ode
from pipeline.anonymity.attacks.inverter import inverted
from pipeline.anonymity.attacks.photos import UNKNOWN, Indices, Pairing, layouts
from pipeline.anonymity.faces.table import tabulate
from pipeline.audit.gathering import Held
from pipeline.audit.task import Audit
from pipeline.errors import UserError
from pipeline.media.pixels import from_pixels, to_pixels

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser
    from pipeline.anonymity.faces.detect import FaceFinder
    from pipeline.media.records import Pixels8

Attempt = tuple[PermutationFigures | InverterFigures | OdeFigures, Indices, list["Pixels8"]]
"""Figures, rows of the release, and what was made of these; no images where a way leads nowhere."""
UNDONE, BATCH, INVERTED = 300, 16, 600
"""Released images that are undone and looked at again, how many at a time, and the pairs of the trained inverter."""


def undo(task: Audit, pairing: Pairing, pairs: Held, device: str) -> Iterator[tuple[str, Attempt]]:
    """Yields the ways back: (name, (figures, rows of the release, images made of them)).

    There are no images where a way leads nowhere.
    """
    if not len(pairs.rows):
        return
    found, figures = best_permutation(list(zip(pairs.sources, pairs.released, strict=True)))
    tested = slice(1, 2 * UNDONE, 2)  # the other half taught the attacker
    images = [found.undo(image) for image in pairs.released[tested]] if found else []
    yield "permutation of tiles", (figures, pairs.rows[tested], images)
    if task.networks:
        yield "trained inverter", by_network(pairing, pairs)
    if task.model is not None:
        level = usual_level(task.manifest.counts.released_by_level)
        images = back_along_the_ode(task.model, pairs.released[:UNDONE], level, device)
        yield "inverse ODE", (OdeFigures(level=level, images=len(images)), pairs.rows[:UNDONE], images)


def by_network(pairing: Pairing, pairs: Held) -> Attempt:
    """What trained inverters make of released images, each by one that never saw its person."""
    rows = pairs.rows[:INVERTED]
    source = pairing.source[rows]
    people = np.where(pairing.person[source] == UNKNOWN, -2 - source, pairing.person[source])
    images = inverted(pairs.released[:INVERTED], pairs.sources[:INVERTED], people) or []
    return InverterFigures(images=len(images)), rows, images


def usual_level(by_level: Mapping[str, int]) -> float:
    """The level, as a fraction of T, that most released images started from by RELEASE.json; .5 where it has none."""
    numbers = {level: count for level, count in by_level.items() if level.replace(".", "", 1).isdigit()}
    return float(max(numbers, key=lambda level: numbers[level])) if numbers else 0.5


def check_model(path: str | None, size: tuple[int, int]) -> None:
    """Raises `UserError` for a model that isn't there, or that works on another size (height, width)."""
    from pipeline.models.config import ModelConfig
    from pipeline.models.families import sketch_model

    if path is not None and (own := sketch_model(ModelConfig(path=path)).size) != size:
        raise UserError(f"model: {path} works on {own[1]} × {own[0]} pixels, the release has {size[1]} × {size[0]}")


def back_along_the_ode(path: str, images: Sequence[Pixels8], level: float, device: str) -> list[Pixels8]:
    """The images that the inverse ODE makes of released ones, uint8 `[H, W, 3]`."""
    from pipeline.models.config import ModelConfig
    from pipeline.models.families import load_model

    model = load_model(ModelConfig(path=path), device)
    parts = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    return [image for part in parts for image in from_pixels(invert_ode(model, to_pixels(part, device), level))]


def paired_again(
    pairing: Pairing, rows: Indices, images: Sequence[Pixels8], finder: FaceFinder, recognisers: Sequence[Recogniser]
) -> Pairing:
    """Pairs images that an attacker made of the released `rows` with the same originals."""
    nobody: list[str | None] = [None] * len(images)
    table = tabulate(images, [pairing.released.keys[i] for i in rows], nobody, finder, recognisers)
    flat = layouts(images)
    sides = {name: (clean, flat[name]) for name, (clean, _) in pairing.layouts.items()}
    return Pairing(originals=pairing.originals, released=table, source=pairing.source[rows], layouts=sides)
