"""The ladder: what fails goes round again, at the price of what fails, and nothing unproven gets through."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.anonymity.faces.table import FaceTable
from pipeline.config import validate
from pipeline.engine import ladder, planning, running
from pipeline.engine.batch_size import BatchSize
from pipeline.engine.planning import make_plan
from pipeline.engine.transforming import untouched
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.media.frame import Frame
from pipeline.media.records import Batch, Output, Result, Row, Sample
from pipeline.operators import OPERATORS
from tests import builders
from tests.anonymity import fakes

RED, BLUE = (250, 20, 20), (20, 20, 250)
YELLOW, FAR = (250, 250, 20), (170, 250, 20)  # far from all others, nearest to yellow
SALT = "a secret of the tests"


def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Plan:
    monkeypatch.setenv("DOPPEL_SALT", SALT)
    monkeypatch.setattr(planning, "facts_of_gate", lambda *_: None)  # whose eyes are fakes here
    model = builders.model_folder(tmp_path / "model", classes=None)
    source = builders.shard(tmp_path / "in" / "a.tar", 1)
    content = builders.recipe(source, tmp_path / "out", model, **{
        "anonymity.ladder": [0.6, 0.8], "anonymity.one_family": "accepted", **changes,
    })  # fmt: skip
    return make_plan(validate(JobConfig, content, "recipe"))


def row(key: str, image: np.ndarray) -> Row:
    size = (image.shape[1], image.shape[0])
    frame = Frame.whole("RGB", size)
    return Row(sample=Sample(key=key, image=b"", image_ext="png"), frame=frame, image=image, noise_key=key)


def batches(images: dict[str, np.ndarray], size: int) -> list[Batch]:
    rows = [row(key, image) for key, image in images.items()]
    starts = range(0, max(len(rows), 1), size)
    return [
        Batch(shard="a", fingerprint="f", rows=rows[i : i + size], read=len(rows[i : i + size]), last=i == starts[-1])
        for i in starts
    ]


class World:
    """Outputs by key and attempt in place of a model, and how many rows each pass of it took."""

    def __init__(self, outputs: dict[str, Sequence[np.ndarray]], table: FaceTable, patch: pytest.MonkeyPatch) -> None:
        self.outputs, self.passes = outputs, list[tuple[int, list[str]]]()
        self.levels, self.masks = list[float](), dict[str, list[np.ndarray | None]]()
        self.gate = fakes.gate(table)
        patch.setattr(ladder, "load_models", lambda config, device: None)
        patch.setattr(ladder, "transform", self.transform)
        patch.setattr(ladder, "open_gate", self.open)

    @contextmanager
    def open(self, job: Plan, device: str) -> Iterator[Any]:
        yield self.gate

    def transform(
        self, rows: Sequence[Row], models: Any, job: Plan, device: str, size: BatchSize, attempt: int = 0,
        steering: Any = None,
    ) -> list[Result]:  # fmt: skip
        self.passes.append((attempt, [r.sample.key for r in rows]))
        self.levels.append(getattr(job.config.operator, job.config.operator.dial).low)  # type: ignore[union-attr,arg-type]
        for r in rows:
            self.masks.setdefault(r.sample.key, []).append(r.mask)
        return [[Output(row=r, image=self.outputs[r.sample.key][attempt], provenance=untouched(r, job))] for r in rows]


def face(colour: tuple[int, int, int], left: int = 4, top: int = 4) -> np.ndarray:
    return fakes.picture((colour, left, top), seed=left)


def known(images: dict[str, np.ndarray]) -> FaceTable:
    """The originals, and one more that none of the tests sends through."""
    return fakes.originals({**images, "yellow": fakes.picture((YELLOW, 9, 9), seed=7)})


def climbed(world: World, made: Plan, images: dict[str, np.ndarray], size: int = 2) -> dict[str, Result]:
    results: dict[str, Result] = {}
    read = 0
    for batch, outcomes in ladder.climb(batches(images, size), made, "cpu"):
        read += batch.read
        for r, outcome in zip(batch.rows, outcomes, strict=True):
            assert r.sample.key not in results
            results[r.sample.key] = outcome
    assert read == len(images) == len(results)
    return results


def attempt_of(result: Result) -> int:
    assert not isinstance(result, str)
    return int(result[0].provenance.anonymity.attempt)  # type: ignore[union-attr]


def test_rows_climb_until_they_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"first": face(RED), "second": face(BLUE), "never": face((20, 250, 20))}
    far = face(FAR, 10, 14)
    outputs = {"first": [far] * 3, "second": [images["second"], far, far], "never": [images["never"]] * 3}
    world = World(outputs, known(images), monkeypatch)
    results = climbed(world, job(tmp_path, monkeypatch, **{"model.batch_size": 2}), images)
    assert attempt_of(results["first"]) == 0
    assert attempt_of(results["second"]) == 1
    assert isinstance(results["never"], str)
    assert results["never"].startswith("recognisable at every level")
    assert sorted(set(world.levels)) == [0.4, 0.6, 0.8]


def test_the_ladder_costs_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 rows in batches of 8, every eighth fails twice: their second passes fill whole batches."""
    angles = np.linspace(0, np.pi / 2, 64)
    colours = [(int(250 * np.cos(a)), 20, int(250 * np.sin(a))) for a in angles]
    images = {f"{i:02d}": face(colour, i % 16, i // 4) for i, colour in enumerate(colours)}
    far = face(FAR, 10, 14)
    outputs = {k: [image if i % 8 == 0 else far] * 2 + [far] for i, (k, image) in enumerate(images.items())}
    world = World(outputs, known(images), monkeypatch)
    made = job(tmp_path, monkeypatch, **{"model.batch_size": 8})
    results = climbed(world, made, images, size=8)
    assert [attempt_of(result) for _, result in sorted(results.items())] == [2, *[0] * 7] * 8
    cost = {attempt: [len(keys) for a, keys in world.passes if a == attempt] for attempt in range(3)}
    assert cost == {0: [8] * 8, 1: [8], 2: [8]}


def test_rows_that_prove_nothing_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"empty": fakes.picture(), "small": fakes.picture((RED, 4, 4), side=5), "sound": face(RED)}
    world = World({"sound": [face(FAR, 10, 14)]}, known(images), monkeypatch)
    results = climbed(world, job(tmp_path, monkeypatch), images)
    assert world.passes == [(0, ["sound"])]
    assert results["empty"] == "undecided: no face was found in the source"
    assert results["small"] == "undecided: a face is too small to be judged"


@pytest.mark.parametrize(("policy", "expected"), [("quarantine", [0]), ("retry", [0, 1, 2]), ("pass", [0])])
def test_policies(policy: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"a": face(RED), "b": face(BLUE)}
    world = World({"a": [fakes.picture(seed=3)] * 3, "b": [face(FAR, 10, 14)]}, known(images), monkeypatch)
    made = job(tmp_path, monkeypatch, **{"anonymity.undecided.no_face_in_output": policy})
    result = climbed(world, made, images)["a"]
    assert [attempt for attempt, keys in world.passes if "a" in keys] == expected
    if policy == "pass":
        assert not isinstance(result, str)
        assert result[0].provenance.anonymity.verdict == "undecided"  # type: ignore[union-attr]
    else:
        assert isinstance(result, str)
        assert "no face was found in the output" in result


def test_what_is_recognised_is_never_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"a": face(RED), "empty": fakes.picture()}
    lax = {f"anonymity.undecided.{doubt}": "pass" for doubt in fakes.DOUBTS}
    world = World({"a": [images["a"]] * 3, "empty": [images["empty"]] * 3}, known(images), monkeypatch)
    results = climbed(world, job(tmp_path, monkeypatch, **lax), images)
    assert isinstance(results["a"], str)
    assert isinstance(results["empty"], str)  # the original itself, unchanged: a near-copy


def test_only_faces_change_and_those_that_passed_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fakes.picture((RED, 2, 2), (BLUE, 18, 18))
    first, second = fakes.picture((FAR, 2, 2), (BLUE, 18, 18)), fakes.picture((RED, 2, 2), (FAR, 18, 18))
    images = {"two": source, "x": face((20, 250, 20))}
    world = World({"two": [first, second, second], "x": [face(FAR, 10, 14)] * 3}, known(images), monkeypatch)
    changes = {"operator": {"name": "sdedit", "t0": 0.4, "steps": 2}, "anonymity.faces_only.margin": 0.2}
    made = job(tmp_path, monkeypatch, **changes)
    result = climbed(world, made, images)["two"]
    assert attempt_of(result) == 1
    image = result[0].image  # type: ignore[union-attr]
    assert (image[8, 8] == FAR).all()  # from the first attempt
    assert (image[24, 24] == FAR).all()  # from the second
    assert (image[0, 31] == source[0, 31]).all()
    masks = world.masks["two"]
    assert masks[0] is not None
    assert masks[1] is not None
    assert masks[0][8, 8] == masks[0][24, 24] == masks[1][24, 24] == 1
    assert masks[1][8, 8] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"operator": {"name": "ddib", "source": "none", "target": "none"}}, "can be undone"),
        ({"operator": {"name": "ilvr", "steps": 2, "factor": 4}}, "no level"),
        ({"anonymity.faces_only.margin": 0.2}, "take operator sdedit"),
        (
            {
                "operator": {"name": "factorized", "components": "spatial", "conditions": ["none", "none"]},
                "anonymity.faces_only.margin": 0.2,
                "anonymity.ladder": [],
            },
            "take operator sdedit",  # it takes a mask, and changes what lies outside of it, too
        ),
        ({"clip": "(.+)-[0-9]+"}, "image by image"),
        ({"anonymity.recognisers": []}, "recognisers"),
        ({"anonymity.identity": "name"}, "json:FIELD"),
        ({"anonymity.thresold": 0.1}, "thresold"),
    ],
)
def test_bad_recipes(changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=said):
        job(tmp_path, monkeypatch, **changes)


def test_a_gate_needs_a_secret_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, monkeypatch)
    monkeypatch.delenv("DOPPEL_SALT")
    with pytest.raises(UserError, match="secret salt of at least 16 bytes"):
        make_plan(made.config)
    assert not (tmp_path / "out" / "data").exists()
    monkeypatch.setenv("DOPPEL_SALT", "short")
    with pytest.raises(UserError, match="holds 5 bytes; at least 16"):
        make_plan(made.config)


def test_levels_are_where_operators_say() -> None:
    for name, operator in OPERATORS.items():
        if operator.dial is not None:
            assert operator.dial in operator.model_fields, name


def test_a_whole_job_counts_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real reading, model, encoding and ledger; the gate sees every image as one face, and its pixels as the person."""
    made = job(tmp_path, monkeypatch, **{"model.batch_size": 4, "anonymity.ladder": [0.9, 1.0]})
    source = builders.shard(tmp_path / "in" / "b.tar", 11)
    made = make_plan(
        made.config.model_copy(update={"input": made.config.input.model_copy(update={"urls": (str(source),)})})
    )
    shard = made.config.input.open().shards[0]
    images = {s.full_key: builders_image(s) for s in shard.read() if isinstance(s, Sample)}
    table = fakes.whole_originals(images)

    @contextmanager
    def opened(job: Plan, device: str, seen: Any = None) -> Iterator[Any]:
        yield fakes.whole_gate(table, threshold=0.35)

    monkeypatch.setattr(ladder, "open_gate", opened)
    monkeypatch.setattr(running, "scan_apart", lambda *_: None)
    counts = running.run_job(made).counts
    assert counts.read == 11 == counts.written + counts.quarantined
    attempts = [
        json.loads(content)["anonymity"]["attempt"]
        for name, content in builders.members_of(tmp_path / "out" / "data" / "b.tar").items()
        if name.endswith("doppel.json")
    ]
    assert len(attempts) == counts.written > 0
    assert max(attempts) > 0
    first = builders.tree(tmp_path / "out", "data", "quarantine")
    output = made.config.output.model_copy(update={"path": str(tmp_path / "again")})
    run = made.config.run.model_copy(update={"workers": 1})
    made = make_plan(made.config.model_copy(update={"output": output, "run": run}))
    running.run_job(made)
    assert builders.tree(tmp_path / "again", "data", "quarantine") == first


def builders_image(sample: Sample) -> np.ndarray:
    from pipeline.media.pixels import decode

    return decode(sample.image, (builders.SIDE, builders.SIDE))[0]
