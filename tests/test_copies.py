"""More outputs of some classes than of others, with the pixels that each copy has anyway."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.copies import MOST, balanced
from tests import builders

COUNT = 9


@given(counts=st.dictionaries(st.integers(0, 9), st.integers(1, 1000), min_size=1), others=st.integers(1, 3))
def test_balance_gives_all_classes_as_many_outputs_as_the_commonest(counts: dict[int, int], others: int) -> None:
    copies, wanted = balanced(counts, others), others * max(counts.values())
    for label, samples in counts.items():
        made = copies.count(label) * samples
        assert others <= copies.count(label) <= max(MOST, others)
        assert copies.count(label) == MOST or abs(made - wanted) <= samples / 2
    assert copies.count(None) == others


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of class 0, two of class 1, one of class 2."""
    labels = [b"0"] * 6 + [b"1"] * 2 + [b"2"]
    members = [(f"{i}.{e}", c) for i in range(COUNT) for e, c in (("png", builders.picture(i)), ("cls", labels[i]))]
    return builders.tar(tmp_path_factory.mktemp("in") / "in.tar", members)


def made(source: Path, model: Path, out: Path, **changes: Any) -> dict[str, bytes]:
    content = builders.recipe(source, out, model, **changes)
    run_job(make_plan(validate(JobConfig, content, "test")))
    return {n: c for n, c in builders.members_of(out / "data" / "in.tar").items() if n.endswith(".png")}


def test_each_class_gets_its_copies_as_any_job_makes_them(source: Path, model: Path, tmp_path: Path) -> None:
    few = made(source, model, tmp_path / "few", copies={"by": "label", "values": {2: 3, 1: 2}})
    all_of_them = made(source, model, tmp_path / "all", **{"operator.copies": 3})
    assert Counter(name.partition("-")[0] for name in few) == {**dict.fromkeys("012345", 1), "6": 2, "7": 2, "8": 3}
    assert few.items() <= all_of_them.items()
    job = json.loads((tmp_path / "few" / "job.json").read_text())
    assert job["outputs"]["copies"] == 3


def test_balance_counts_the_labels_and_another_count_is_another_job(source: Path, model: Path, tmp_path: Path) -> None:
    changes = {"copies": {"balance": True}, "input.label_names": ["a", "b", "c"], "classes": "numbers"}
    found = made(source, model, tmp_path / "out", **changes)
    assert Counter(name.partition("-")[0] for name in found) == {**dict.fromkeys("012345", 1), "6": 3, "7": 3, "8": 6}
    with pytest.raises(UserError, match=r"differs in .*the copies of each class"):
        made(source, model, tmp_path / "out", **changes, limit=8)
    with pytest.raises(UserError, match=r"copies\.values: 'd' is no class of the data set, which has a, b, c"):
        made(source, model, tmp_path / "new", **changes | {"copies": {"values": {"d": 2}}})
    by_name = made(source, model, tmp_path / "named", **changes | {"copies": {"values": {"c": 2}}})
    assert len(by_name) == COUNT + 1
