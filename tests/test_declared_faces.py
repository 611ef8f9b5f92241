"""`anonymity.boxes` and `anonymity.keep`: what people declare can only make the gate stricter, never blind."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.regions import all_found, declared, meet, restored, seen, touched, with_margin
from pipeline.engine import ladder
from pipeline.errors import UserError
from pipeline.geometry.moving import Unfollowed
from pipeline.media.fitting import framed
from pipeline.media.frame import Frame
from pipeline.media.records import Result, Row
from tests.anonymity import fakes
from tests.test_ladder import BLUE, FAR, RED, World, attempt_of, batches, face, job, known

DECLARED = {"anonymity.boxes": "json:faces", "anonymity.keep": "json:keep", "anonymity.box_format": "xywh"}
"""Both kinds of boxes, in one member."""
FRAME = Frame.whole("RGB", (32, 32))


def results(
    said: dict[str, Any], images: dict[str, np.ndarray], outputs: dict[str, list[np.ndarray]],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any,
) -> tuple[dict[str, Result], World]:  # fmt: skip
    """What becomes of images whose member `json` says something: text, or whatever JSON can hold; None is no member."""
    world = World(dict(outputs), known(images), monkeypatch)
    made = job(tmp_path, monkeypatch, **{**DECLARED, **changes})

    def saying(row: Row) -> Row:
        value = said[row.sample.key]
        content = value if isinstance(value, str) else json.dumps(value)
        members = {} if value is None else {"json": content.encode()}
        return replace(row, sample=replace(row.sample, members=members))

    told = [replace(batch, rows=[saying(row) for row in batch.rows]) for batch in batches(images, 2)]
    found = dict[str, Result]()
    for done, outcomes in ladder.climb(told, made, "cpu"):
        found |= {row.sample.key: outcome for row, outcome in zip(done.rows, outcomes, strict=True)}
    return found, world


def test_a_declared_face_that_nobody_finds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As is a sample that does not say where its faces are: only an empty list says that there are no others."""
    said = {
        "found": {"faces": [[4, 4, 12, 12]], "keep": []},
        "missed": {"faces": [[4, 4, 12, 12], [20, 20, 8, 8]], "keep": []},
        "twice": {"faces": [[4, 4, 12, 12], [6, 6, 8, 8]], "keep": []},  # one found face proves one declared face
        "none": {"faces": [], "keep": []},
        "silent": None, "other": {"keep": []}, "null": {"faces": None, "keep": []}, "broken": "{", "text": "12",
        "backwards": {"faces": [[8, 8, -4, 4]], "keep": []}, "three": {"faces": [[1, 2, 3]], "keep": []},
    }  # fmt: skip
    images = {key: face(RED) for key in said}
    outcomes, world = results(said, images, {key: [face(FAR, 10, 14)] for key in said}, tmp_path, monkeypatch)
    assert sorted(key for key in said if not isinstance(outcomes[key], str)) == ["found", "none"]
    assert outcomes["missed"] == outcomes["twice"] == "undecided: no face was found where one is declared"
    assert outcomes["silent"] == "undecided: anonymity.boxes and keep: no JSON in json:faces"
    assert {key for _, keys in world.passes for key in keys} == {"found", "none"}  # what is refused costs nothing


def test_a_region_stays_as_it_is_and_never_meets_a_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = face(RED)
    said = {
        "apart": {"faces": [], "keep": [[1.5, 26.5, 20, 9]]},  # it leaves the image, and ends within pixels
        "found": {"faces": [], "keep": [[10, 10, 10, 10]]},
        "near": {"faces": [], "keep": [[0, 17, 9, 9]]},  # below the face, within what identifies people, too
    }
    images = dict.fromkeys(said, source)
    outputs = {key: [face(FAR, 10, 4)] for key in said}
    outcomes, _ = results(said, images, outputs, tmp_path, monkeypatch)
    assert outcomes["found"] == outcomes["near"] == "undecided: a region to keep meets a face"
    assert not isinstance(outcomes["apart"], str), outcomes["apart"]
    kept = outcomes["apart"][0].image  # type: ignore[union-attr]
    assert (kept[26:, 1:22] == source[26:, 1:22]).all()
    expected = outputs["apart"][0].copy()
    expected[26:, 1:22] = source[26:, 1:22]
    assert (kept == expected).all()
    declared_face = {"far": {"faces": [[4, 4, 20, 24]], "keep": [[2, 27, 20, 4]]}}
    outcomes, _ = results(declared_face, {"far": source}, {"far": [face(FAR)]}, tmp_path, monkeypatch)
    assert outcomes["far"] == "undecided: a region to keep meets a face"  # the declared one


def test_an_output_with_a_face_in_a_region_goes_round_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the source shows through: nobody knows whose face it is."""
    said = {key: {"faces": [], "keep": [[22, 22, 10, 10]]} for key in ("again", "never")}
    low, away = fakes.picture((FAR, 16, 16)), fakes.picture((FAR, 2, 2))
    outputs = {"again": [low, away, away], "never": [low] * 3}
    outcomes, world = results(said, dict.fromkeys(said, face(RED)), outputs, tmp_path, monkeypatch)
    assert attempt_of(outcomes["again"]) == 1
    assert outcomes["never"] == "undecided at every level: a region to keep meets a face"
    assert [attempt for attempt, _ in world.passes][-1] == 2


def test_where_only_faces_change_declared_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"operator": {"name": "sdedit", "t0": 0.4, "steps": 2}, "anonymity.faces_only.margin": 0.0}
    said = {"a": {"faces": [[2, 2, 24, 28]], "keep": []}}
    _, world = results(said, {"a": face(RED)}, {"a": [face(BLUE)] * 3}, tmp_path, monkeypatch, **changes)
    mask = world.masks["a"][0]
    assert mask is not None
    assert mask[25, 14] == 1  # far below the face that was found
    assert mask[2, 2] == 0


def test_the_recipe_says_what_the_numbers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="box_format: xyxy, xywh, cxcywh, normalised, normalised xyxy"):
        job(tmp_path, monkeypatch, **{"anonymity.boxes": "json:faces"})
    with pytest.raises(UserError, match="names no member"):
        job(tmp_path, monkeypatch, **{"anonymity.keep": "json:", "anonymity.box_format": "xyxy"})


def config(layout: str) -> AnonymityConfig:
    return AnonymityConfig.model_validate({"boxes": ("json:people.face",), "box_format": layout})


@pytest.mark.parametrize(
    ("layout", "box"),
    [
        ("xyxy", [4, 8, 12, 24]), ("xywh", [4, 8, 8, 16]), ("cxcywh", [8, 16, 8, 16]),
        ("normalised", [0.25, 0.5, 0.25, 0.5]), ("normalised xyxy", [0.125, 0.25, 0.375, 0.75]),
    ],
)  # fmt: skip
def test_boxes_are_read_in_every_format(layout: str, box: list[float]) -> None:
    members = {"json": json.dumps({"people": [{"face": box}, {"face": [box, box]}]}).encode()}
    found = declared(("json:people.face",), config(layout), members, FRAME)
    assert found == [pytest.approx((4, 8, 8, 16))] * 3
    column = {"people.json": json.dumps([{"face": box}]).encode()}
    assert declared(("people:face",), config(layout), column, FRAME) == [pytest.approx((4, 8, 8, 16))]


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_box_lies_where_its_pixels_are(fit: Any, orientation: int) -> None:
    """A white box in a black photograph is seen where the box is declared."""
    upright = np.zeros((60, 90, 3), dtype=np.uint8)
    upright[20:40, 30:50] = 255
    pixels, frame = framed(Image.fromarray(upright), orientation, (30, 30), fit)
    left, top, right, bottom = seen([30, 20, 50, 40], "xyxy", frame)
    y, x = np.nonzero(pixels[..., 0] > 127)
    assert (left, right) == pytest.approx((x.min(), x.max() + 1), abs=0.6)
    assert (top, bottom) == pytest.approx((y.min(), y.max() + 1), abs=0.6)


BOXES = st.tuples(*[st.floats(0, 30), st.floats(0, 30), st.floats(0.5, 20), st.floats(0.5, 20)])


@given(BOXES, BOXES)
def test_laws_of_boxes(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    first, second = one[:4], other[:4]
    assert meet(first, second) == pytest.approx(meet(second, first))  # type: ignore[arg-type]
    assert meet(first, with_margin(first)) == pytest.approx(first[2] * first[3], rel=1e-6)  # type: ignore[arg-type]
    assert meet(first, touched(first)) == pytest.approx(first[2] * first[3], rel=1e-6)  # type: ignore[arg-type]
    assert all_found([first], [first, second])  # type: ignore[list-item]
    assert not all_found([first, first], [second])  # type: ignore[list-item]
    assert all_found([], [second])  # type: ignore[list-item]


def test_pixels_of_regions_come_back_and_no_others() -> None:
    before, after = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    mixed = restored(after, before, [touched((1.2, 2.5, 2.0, 3.0))])
    assert (mixed[2:6, 1:4] == 0).all()
    assert mixed.sum() == 9 * 3 * (64 - 12)
    assert restored(after, before, []) is after


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("ab"), inner),
)


@given(JSON)
def test_any_json_is_boxes_or_one_sentence(value: Any) -> None:
    with suppress(Unfollowed):
        found = declared(("json:a.b", "json"), config("xyxy"), {"json": json.dumps(value).encode()}, FRAME)
        assert all(x >= 0 and x + w <= 32 and y + h <= 32 and w > 0 and h > 0 for x, y, w, h in found)
