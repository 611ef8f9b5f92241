"""Keys that every shard has anew, `0000` and so on, which is how most tars are made: nothing of one meets another's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from pipeline.streams.job_records import Manifest
from tests import builders
from tests.finished_job import people as people_of
from tests.finished_job import released, samples

COUNT = 5


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tars with the same samples under the same keys."""
    for name in "ab":
        builders.shard(tmp_path / "in" / f"{name}.tar", COUNT)
    return tmp_path / "in"


def run(source: Path, out: Path, model: Path | None, **changes: object) -> Manifest:
    return run_job(make_plan(validate(JobConfig, builders.recipe(source, out, model, **changes), "test")))


def test_each_gets_noise_of_its_own_and_says_whose_it_is(shards: Path, tmp_path: Path, model: Path) -> None:
    assert run(shards / "*.tar", tmp_path / "out", model).counts.written == 2 * COUNT
    a, b = (builders.members_of(tmp_path / "out" / "data" / f"{name}.tar") for name in "ab")
    for i in range(COUNT):
        one, other = (decode(members[f"{i:04d}.png"])[0] for members in (a, b))
        assert np.abs(one.astype(int) - other).mean() > 10
        assert [json.loads(members[f"{i:04d}.doppel.json"])["shard"] for members in (a, b)] == ["a", "b"]


def test_a_shard_has_the_same_bytes_beside_others_and_alone(shards: Path, tmp_path: Path, model: Path) -> None:
    for source, out in ((shards / "*.tar", "all"), (shards / "b.tar", "alone")):
        run(source, tmp_path / out, model)
    both = [(tmp_path / out / "data" / "b.tar").read_bytes() for out in ("all", "alone")]
    assert both[0] == both[1]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_folder_takes_all_of_them_in_any_order(shards: Path, tmp_path: Path, labelled: bool) -> None:
    changes = {"output.format": "folder"}
    for name in "" if labelled else "ab":
        members = builders.members_of(shards / f"{name}.tar").items()
        builders.tar(shards / f"{name}.tar", [member for member in members if not member[0].endswith(".cls")])
    made = run(shards / "*.tar", tmp_path / "both", None, **changes)
    assert (made.counts.written, made.counts.in_quarantine) == (2 * COUNT, 0)
    (shards / "a.tar").rename(tmp_path / "a.tar")
    run(shards / "*.tar", tmp_path / "grown", None, **changes)
    (tmp_path / "a.tar").rename(shards / "a.tar")
    run(shards / "*.tar", tmp_path / "grown", None, **changes)
    trees = [builders.tree(tmp_path / out, "data") for out in ("both", "grown")]
    assert trees[0] == trees[1]
    assert f"data/{'0/a%2F' if labelled else 'a/'}0000.png" in trees[0]


def test_a_release_holds_them_all_and_no_name_of_theirs(tmp_path: Path) -> None:
    shards = [people_of(6, shard=name) for name in ("first", "second")]
    found = samples(released(tmp_path, shards))
    assert len({sample.key for sample in found}) == 12
