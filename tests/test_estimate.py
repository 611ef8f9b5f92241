"""The estimate of a dry run: it sees every stage of a job, or it is not given, and it leaves nothing behind."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import probing
from pipeline.commands.estimate import UNKNOWN, estimate
from pipeline.commands.probing import probe
from pipeline.config import validate
from pipeline.engine import encoding, reading, transforming
from pipeline.engine.planning import make_plan
from pipeline.engine.reading import open_input
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.streams import shards
from tests import builders

EACH = 0.004
"""Seconds that a slow stage takes for each image, at least."""
STAGES: dict[str, tuple[Any, str]] = {
    "read": (shards, "_sample"),
    "decode": (reading, "read_picture"),
    "transform": (transforming, "untouched"),
    "encode": (encoding, "encode"),
    "write": (shards.TarWriter, "add"),
}
"""A function of each stage that is called once for each image."""


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probing, "WARM_UP", 0.4)
    monkeypatch.setattr(probing, "TIMED", 0.8)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def plan_of(tmp_path: Path, model: Path | None = None, *, count: int = 20, **changes: Any) -> Plan:
    source = builders.shard(tmp_path / "in.tar", count)
    return make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", model, **changes), "test"))


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_as_slow_as_the_slowest_stage(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, name = STAGES[stage]
    quick = getattr(home, name)

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(EACH)
        return quick(*args, **options)

    monkeypatch.setattr(home, name, slow)
    plan = plan_of(tmp_path, **{"run.workers": 1})
    found = probe(plan, *open_input(plan))
    assert 10 < found.read / found.seconds < 1.5 / EACH
    assert found.read == found.images


def test_it_says_what_comes_out_and_leaves_nothing(tmp_path: Path, model: Path) -> None:
    plan = plan_of(tmp_path, model, count=7, **{"operator.copies": 3, "limit": 6})
    said = estimate(plan)
    assert "# samples: about 6 (7 in the first shard)\n# images: about 18 out\n# probe: " in said
    assert not any((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "out").exists()


def test_a_shard_is_written_again_and_again_in_every_format(tmp_path: Path) -> None:
    """A folder refuses a file that is there already: what one round has written must be gone in the next."""
    plan = plan_of(tmp_path, count=3, **{"output.format": "folder"})
    found = probe(plan, *open_input(plan))
    assert found.rejected == 0
    assert found.images == found.read > 3


def test_what_goes_to_quarantine_is_said(tmp_path: Path) -> None:
    members = [(f"{i}.png", builders.picture(i) if i else b"no image") for i in range(4)]
    builders.tar(tmp_path / "in.tar", members)
    content = builders.recipe(tmp_path / "in.tar", tmp_path / "out", None)
    assert "samples in quarantine" in estimate(make_plan(validate(JobConfig, content, "test")))
    builders.tar(tmp_path / "in.tar", members[:1])
    said = estimate(make_plan(validate(JobConfig, content, "test")))
    assert "# no estimate of time: all " in said
    assert "images/s" not in said


def test_without_samples_there_is_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(b"no tar at all")
    content = builders.recipe(tmp_path / "in.tar", tmp_path / "out", None)
    said = estimate(make_plan(validate(JobConfig, content, "test")))
    assert said.endswith("# no estimate of time: no sample could be read")


def test_with_a_gate_there_is_none(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path, model)
    config = plan.config.model_copy(update={"anonymity": object()})
    object.__setattr__(plan, "config", config)
    assert estimate(plan).splitlines()[-1] == f"# {UNKNOWN}"
