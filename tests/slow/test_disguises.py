"""The gate, probed with sixty people in thirty-five disguises: none may be released that a person or a script undoes.

`uv run pytest -m slow -k disguises -s` prints a table. It takes some minutes on two cores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.scanning import image_stream, tabulated
from pipeline.anonymity.gate.calibration import SHIPPED, find_certificate
from pipeline.anonymity.gate.families import default_recognisers
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.anonymity.gate.verdicts import ImageVerdict
from pipeline.media.rules import PixelRules
from pipeline.streams.shards import WebDatasetInput
from tests.anonymity.disguises import DISGUISES
from tests.anonymity.portraits import LFW, needs_dlib, needs_lfw

pytestmark = [pytest.mark.slow, needs_lfw, needs_dlib]
SIZE, PEOPLE, OTHERS = (64, 64), 60, 240
ALONE = ("identity", "mirror", "brighter", "darker", "JPEG 75", "JPEG 30", "small blur")
"""Disguises that a gate with any one of the recognisers alone must refuse."""


@dataclass(frozen=True)
class World:
    gate: Gate
    images: dict[str, np.ndarray]
    """The photographs of the people that are disguised, by key."""

    def judged(self, disguise: str) -> list[ImageVerdict]:
        sources = list(self.images.values())
        return self.gate.judge(list(self.images), [DISGUISES[disguise](image) for image in sources], sources)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The gate of the default recognisers over one photograph of each of 300 people of LFW's dev split."""
    stream = image_stream(
        WebDatasetInput(urls=(str(LFW / "dev-*.tar"),)), SIZE, PixelRules(fit="centre 128"), "json:identity"
    )
    names = [name for name in default_recognisers() if (SHIPPED / f"{name}_64.json").exists()]
    seen: dict[str, tuple[str, str | None, np.ndarray]] = {}
    for key, who, image in stream:
        seen.setdefault(str(who), (key, who, image))
    everybody = list(seen.values())[-(PEOPLE + OTHERS) :]
    with FaceFinder("dlib", workers=2) as finder:
        recognisers = [load_recogniser(name) for name in names]
        table = tabulated(iter(everybody), finder, recognisers)
        judges = tuple(Judge.of(one, find_certificate(one, finder, SIZE), "deepface") for one in recognisers)
        gate = Gate(finder=finder, judges=judges, originals=table, smallest_face=16, near_copy=6)
        single = [(key, image) for i, (key, _, image) in enumerate(everybody) if len(table.rows_of(i)) == 1]
        yield World(gate, dict(single[-PEOPLE:]))


@pytest.mark.parametrize("disguise", DISGUISES)
def test_none_of_the_disguises_is_released(world: World, disguise: str) -> None:
    found = world.judged(disguise)
    counts = Counter(one.verdict for one in found)
    alone = Counter(name for one in found for face in one.faces for name in face.refused_by)
    reasons = Counter(one.why for one in found if one.why.startswith("undone") or "parts" in one.why)
    print(f"\n{disguise}: {dict(counts)}; recognised by {dict(alone)}; {dict(reasons)}")
    assert len(found) == PEOPLE
    assert counts["anonymous"] == 0
    if disguise in ALONE:
        # Without any name, the image is refused by rules that all gates have: as a copy, or for want of a face.
        assert all(len(one.refused_by) in (0, len(world.gate.judges)) for one in found)
