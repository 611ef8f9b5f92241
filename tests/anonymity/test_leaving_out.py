"""Leave-one-out: what a gate without a recogniser would have released is kept, found again, and attacked with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.anonymity.attacks.photos import Pairing
from pipeline.anonymity.attacks.results import thresholds_of, under
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.attempts import Attempt, Attempts, all_attempts, load_attempts, refused, save_attempts
from pipeline.anonymity.gate.verdicts import ImageVerdict
from pipeline.audit.leaving_out import leave_one_out, remaining, unknown, without
from pipeline.errors import UserError
from pipeline.release.evidence import Require

HASHES = {"config": "c", "model": "m"}
PEOPLE, EACH, WIDE = 40, 2, 16


def attempt(source: str, rung: int, *names: str, images: int = 1, fill: float = 1.0) -> Attempt:
    vectors = {name: np.full((images, 2), fill, np.float32) for name in ("Dlib", "dlib-chip", "small")}
    return Attempt(source=source, rung=rung, refused_by=frozenset(names), vectors=vectors)


def verdict(kind: str, *names: str) -> ImageVerdict:
    vectors = {name: np.ones(2, np.float32) for name in ("Dlib", "small")}
    return ImageVerdict(verdict=kind, why="", refused_by=names, vectors=vectors)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ([verdict("recognisable", "Dlib")], {"Dlib"}),
        ([verdict("recognisable", "Dlib", "dlib-chip")], {"Dlib", "dlib-chip"}),  # one network
        ([verdict("recognisable", "Dlib", "small")], None),  # two families: no gate without one lets it pass
        ([verdict("recognisable", "Dlib"), verdict("recognisable", "small")], None),
        ([verdict("recognisable", "Dlib"), verdict("anonymous")], {"Dlib"}),
        ([verdict("recognisable", "Dlib"), verdict("undecided")], None),
        ([verdict("recognisable", "Dlib"), verdict("recognisable")], None),  # for another reason
        ([verdict("anonymous")], None),  # the whole gate lets it pass
        ([], None),
    ],
)
def test_what_is_kept(found: list[ImageVerdict], names: set[str] | None) -> None:
    kept = refused("a/1", 0, found)
    assert (kept and set(kept.refused_by)) == names
    if kept:
        assert {name: vectors.shape for name, vectors in kept.vectors.items()} == {
            name: (len(found), 2) for name in ("Dlib", "small")
        }


def test_the_first_attempt_that_the_others_let_pass() -> None:
    found = Attempts(
        judged=frozenset("ab"),
        kept=(attempt("a", 2, "Dlib"), attempt("a", 1, "Dlib", "dlib-chip"), attempt("b", 0, "small")),
    )
    assert {key: one.rung for key, one in found.first_without({"Dlib"}).items()} == {"a": 2}
    assert {key: one.rung for key, one in found.first_without({"Dlib", "dlib-chip"}).items()} == {"a": 1}
    assert found.first_without(set()) == {}


def test_files_of_attempts(tmp_path: Path) -> None:
    file = tmp_path / "attempts" / "shard.safetensors"
    first = Attempts(judged=frozenset("abc"), kept=(attempt("a", 0, "Dlib", images=2), attempt("b", 1, "small")))
    save_attempts(file, first, HASHES)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    back = load_attempts(file, HASHES)
    assert back.judged == first.judged
    assert [(one.source, one.rung, one.refused_by) for one in back.kept] == [
        (one.source, one.rung, one.refused_by) for one in first.kept
    ]
    assert [one.vectors["Dlib"].shape for one in back.kept] == [(2, 2), (1, 2)]
    save_attempts(file, Attempts(judged=frozenset("b"), kept=(attempt("b", 0, "Dlib", fill=7),)), HASHES)
    again = load_attempts(file, HASHES)  # only b was judged again
    assert again.judged == first.judged
    assert [(one.source, one.rung, float(one.vectors["Dlib"][0, 0])) for one in again.kept] == [
        ("a", 0, 1),
        ("b", 0, 7),
    ]
    with pytest.raises(UserError, match="of another job"):
        load_attempts(file, {"config": "d"})
    save_attempts(file, Attempts(judged=frozenset("d"), kept=()), {"config": "d"})  # nothing of another job is kept
    assert load_attempts(file, {"config": "d"}) == Attempts(judged=frozenset("d"), kept=())
    assert all_attempts(file.parent, HASHES) == Attempts(judged=frozenset(), kept=())


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"not tensors"])
def test_a_damaged_file_holds_no_attempts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="no attempts can be read"):
        load_attempts(tmp_path / "a.safetensors", HASHES)
    assert all_attempts(tmp_path, HASHES).judged == frozenset()


def test_the_gates_that_are_left() -> None:
    assert list(remaining("Dlib", ("Dlib", "dlib-chip"))) == [("dlib-chip",)]
    assert list(remaining("Dlib", ("Dlib", "dlib-chip", "small"))) == [("dlib-chip", "small"), ("small",)]
    assert list(remaining("small", ("Dlib", "dlib-chip", "small"))) == [("Dlib", "dlib-chip")]
    assert list(remaining("Dlib", ("Dlib",))) == []


def unit(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def table(keys: list[str], people: list[str | None], **embeddings: Any) -> FaceTable:
    count = len(keys)
    return FaceTable(
        keys=tuple(keys), identities=tuple(people), image=np.arange(count), box=np.ones((count, 4), np.float32),
        eyes=np.full((count, 2, 2), np.nan, np.float32), embeddings=embeddings,
        phash=np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64),
    )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> tuple[Pairing, Attempts, Any]:
    """Two recognisers see people alike. Released images show nobody; the first attempts show the people to the eye of
    `small` alone, which refused them."""
    rng = np.random.default_rng(0)
    person = np.repeat(rng.normal(size=(PEOPLE, WIDE)), EACH, axis=0)
    clean = unit(person + 0.3 * rng.normal(size=person.shape))
    keys = [f"s/{i}" for i in range(len(clean))]
    who: list[str | None] = [f"p{i // EACH}" for i in range(len(clean))]
    nobody = unit(rng.normal(size=clean.shape))
    originals = table(keys, who, Dlib=clean, small=clean)
    released = table(["r"] * len(clean), [None] * len(clean), Dlib=nobody, small=nobody)
    pairing = Pairing(originals=originals, released=released, source=np.arange(len(clean)))
    early = unit(clean + 0.2 * rng.normal(size=clean.shape))
    attempts = Attempts(
        judged=frozenset(keys),
        kept=tuple(
            Attempt(source=key, rung=0, refused_by=frozenset(["small"]),
                    vectors={"small": early[i : i + 1], "Dlib": nobody[i : i + 1]})
            for i, key in enumerate(keys)
        ),
    )  # fmt: skip
    thresholds = thresholds_of(pairing, {"Dlib": None, "small": None})
    return pairing, attempts, (under("T1", pairing, thresholds), thresholds)


def test_a_recogniser_finds_what_only_it_had_refused(world: tuple[Pairing, Attempts, Any]) -> None:
    pairing, attempts, (t1, thresholds) = world
    found = leave_one_out(pairing, ("Dlib", "small"), (), t1, thresholds, attempts, Require())
    small, dlib = next(one for one in found if one.attacker == "small"), found[0]
    assert (dlib.attacker, dlib.gate, dlib.images, dlib.earlier) == ("Dlib", ("small",), 80, 0)
    assert dlib.rank_1 is not None
    assert dlib.rank_1.low <= dlib.rank_1.chance * 2  # nothing that only Dlib refused: it sees the release itself
    assert (small.gate, small.images, small.earlier) == (("Dlib",), 80, 80)
    assert small.rank_1 is not None
    assert small.rank_1.share > 0.8
    assert small.rank_1.too_often
    assert small.tar["1e-2"] > 0.8
    assert small.rank_10 is not None
    assert small.rank_10_chance is not None
    assert small.rank_10 >= small.rank_1.share
    assert small.rank_1.chance == pytest.approx(1 / 79, abs=1e-5)
    assert small.rank_10_chance == pytest.approx(10 / 79, abs=1e-4)


def test_a_recogniser_beyond_the_gate_attacks_the_release_itself(world: tuple[Pairing, Attempts, Any]) -> None:
    pairing, attempts, (t1, thresholds) = world
    for given in (attempts, None):
        one = next(
            one
            for one in leave_one_out(pairing, ("Dlib",), (), t1, thresholds, given, Require())
            if one.attacker == "small"
        )
        own = t1.recognisers["small"].reidentification["naive"].rank["1"]
        assert one.rank_1 is not None
        assert (one.gate, one.earlier) == (("Dlib",), 0)
        assert one.rank_1.share == pytest.approx(own.share, abs=1e-5)
    assert [
        one.attacker for one in leave_one_out(pairing, ("Dlib", "small"), (), t1, thresholds, None, Require())
    ] == []


def test_whom_images_were_led_away_from_is_no_witness(world: tuple[Pairing, Attempts, Any]) -> None:
    pairing, attempts, (t1, thresholds) = world
    found = leave_one_out(pairing, ("Dlib", "small"), ("dlib",), t1, thresholds, attempts, Require())
    assert [one.attacker for one in found] == ["small"]


def test_released_and_withheld_images_alike_are_replaced_by_what_came_first(
    world: tuple[Pairing, Attempts, Any],
) -> None:
    pairing, attempts, _ = world
    few = Pairing(
        originals=pairing.originals,
        released=table(["r"] * 3, [None] * 3, small=pairing.released.embeddings["small"][:3]),
        source=np.array([4, 0, 2]),
    )  # of the originals 0, 2 and 4; all others were withheld
    kept = Attempts(judged=attempts.judged, kept=attempts.kept[2:4])  # of the originals 2 and 3
    other, earlier = without(few, kept, "small", {"small"})
    assert earlier == 2
    assert other.source.tolist() == [4, 0, 2, 3]
    vectors = other.released.embeddings["small"]
    assert np.array_equal(vectors[:2], few.released.embeddings["small"][:2])
    assert np.array_equal(vectors[2], attempts.kept[2].vectors["small"][0])
    assert other.made("small").photo.tolist() == [4, 0, 2, 3]
    assert unknown(few, Attempts(judged=frozenset(["s/0"]), kept=())) == 2
