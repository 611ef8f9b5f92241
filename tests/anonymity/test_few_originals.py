"""With few originals the nearest is often the own one by chance: then distances decide, within a declared error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from pipeline.anonymity.faces.table import tabulate
from pipeline.anonymity.gate.calibration import certify
from pipeline.anonymity.gate.facts import said
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import CHANCE, Judge
from pipeline.anonymity.gate.verdicts import ImageVerdict
from tests.anonymity.face_tables import people, table, unit
from tests.anonymity.fakes import FakeRecogniser, WholeFinder

DIMENSIONS, STRANGERS = 16, 800


class Numbered(FakeRecogniser):
    """The first two bytes of an image are the number of its vector."""

    threshold = None

    def __init__(self, name: str, vectors: np.ndarray) -> None:
        super().__init__(name)
        self.vectors = vectors

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        numbers = [int(crop[0, 0, 0]) * 256 + int(crop[0, 0, 1]) for crop in crops]
        return self.vectors[numbers].reshape(-1, DIMENSIONS)


def image(number: int) -> np.ndarray:
    return np.full((8, 8, 3), (number // 256, number % 256, 0), np.uint8)


@cache
def impostors(name: str) -> Judge:
    """A judge whose certificate holds for vectors in random directions."""
    vectors, who = people(300, 2, dimensions=DIMENSIONS, seed=3)
    recogniser = Numbered(name, vectors)
    known = certify(table({name: vectors}, who), recogniser, WholeFinder(), (8, 8), data="directions")  # type: ignore[arg-type]
    return Judge.of(recogniser, known, "1e-3")


def world(count: int, outputs: dict[str, np.ndarray], identities: Sequence[str | None] | None = None) -> Gate:
    """`count` originals in random directions; image number `count + i` is row i of `outputs`, by recogniser."""
    judges = []
    for i, (name, made) in enumerate(outputs.items()):
        originals = unit(np.random.default_rng(50 + i).normal(size=(count, DIMENSIONS)))
        known = impostors(name)
        recogniser = Numbered(name, np.concatenate([originals, made]).astype(np.float32))
        judges.append(Judge(recogniser=recogniser, certificate=known.certificate, threshold=known.threshold))
    keys = [f"key-{i}" for i in range(count)]
    faces = tabulate([image(i) for i in range(count)], keys, identities or [None] * count, WholeFinder(),
                     [judge.recogniser for judge in judges])  # type: ignore[arg-type]  # fmt: skip
    return Gate(finder=WholeFinder(), judges=tuple(judges), originals=faces, smallest_face=4, near_copy=-1, shared=1.0,
                undoings={})  # type: ignore[arg-type]  # fmt: skip


def judged(gate: Gate, sources: Sequence[int], count: int) -> list[ImageVerdict]:
    keys = [f"key-{i}" for i in sources]
    first = len(gate.originals.keys)
    return gate.judge(keys, [image(first + i) for i in range(count)], [image(i) for i in sources])


def random(seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(STRANGERS, DIMENSIONS)))


def own(found: Sequence[ImageVerdict]) -> Counter[str]:
    """Images that are refused for their own person's sake, by the rule."""
    rules = {"nearest": "is nearest", "distance": "nearer to the person", "threshold": "recognises"}
    return Counter(rule for one in found for rule, words in rules.items() if words in one.why)


def test_of_twenty_people_strangers_are_refused_within_the_declared_error() -> None:
    gate = world(20, {"one": random(1), "two": random(2)})
    assert not gate.rank_counts(1)
    found = judged(gate, [i % 20 for i in range(STRANGERS)], STRANGERS)
    refused = own(found)
    assert refused["nearest"] == 0
    slack = 3 * (CHANCE * (1 - CHANCE) / STRANGERS) ** 0.5
    assert 0 < (refused["distance"] + refused["threshold"]) / STRANGERS <= CHANCE + slack
    # By rank, twice the declared error would be: 1 of 20 for each of two recognisers.
    ranked = [
        any(np.argmax(gate.originals.embeddings[judge.recogniser.name] @ judge.recogniser.vectors[20 + i]) == i % 20
            for judge in gate.judges) for i in range(STRANGERS)
    ]  # fmt: skip
    assert np.mean(ranked) == pytest.approx(1 - 0.95**2, abs=0.03)


def test_of_twenty_people_who_shows_through_is_refused_for_the_distance() -> None:
    gate = world(20, {"one": np.zeros((0, DIMENSIONS))})
    judge, centre = impostors("one"), gate.originals.embeddings["one"][:20]
    aside = np.random.default_rng(9).normal(size=(20, DIMENSIONS))
    aside = unit(aside - (aside * centre).sum(1, keepdims=True) * centre)
    rare = judge.rare_distance(1, CHANCE / 2)
    reach = (judge.threshold + rare) / 2  # beyond the threshold, and nearer than strangers are
    outputs = unit((1 - reach) * centre + (1 - (1 - reach) ** 2) ** 0.5 * aside)
    gate = world(20, {"one": outputs, "two": random(2)[:20]})
    found = judged(gate, list(range(20)), 20)
    assert all(one.verdict == "recognisable" for one in found)
    assert own(found)["distance"] >= 18  # some also look like another of the twenty, or are known to the other one
    assert "strangers come in 1 of 40 images" in found[0].why


def test_a_rank_among_many_counts_at_any_distance() -> None:
    gate = world(300, {"one": random(1), "two": random(2)})
    assert gate.rank_counts(1)
    found = judged(gate, [i % 300 for i in range(STRANGERS)], STRANGERS)
    assert own(found)["nearest"] == pytest.approx(STRANGERS * 2 / 300, abs=8)
    assert own(found)["distance"] == 0


def test_whose_photographs_are_many_of_all_is_judged_by_distance() -> None:
    who = ["anna"] * 10 + [f"person {i}" for i in range(90)]
    gate = world(100, {"one": random(1)}, who)
    found = judged(gate, [0] * 400 + [50] * 400, 800)
    assert own(found[:400])["nearest"] == 0
    assert own(found[:400])["distance"] / 400 <= CHANCE + 0.035
    assert own(found[400:])["nearest"] > 0  # 1 of 100 by chance
    assert any("For 10 of 100 originals" in sentence for sentence in said(gate))


def test_the_rarer_the_nearer() -> None:
    judge = impostors("one")
    distances = [[judge.rare_distance(faces, error) for error in (1e-4, 1e-3, 0.01, 0.05, 1)] for faces in (1, 5, 100)]
    assert all(row == sorted(row) for row in distances)
    assert all(column == sorted(column, reverse=True) for column in np.transpose(distances).tolist())
    assert judge.rare_distance(10**9, 1e-9) == judge.rare_distance(1, 0)
