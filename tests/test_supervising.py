"""Workers that die or hang are replaced, what they held is done again, and a shard that ends each is set aside."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import validate
from pipeline.engine import reading
from pipeline.engine.events import Event, Noted, Progress, SetAside, TakenBack
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.streams import ledger as ledgers
from pipeline.streams.asides import MARK
from pipeline.streams.job_records import Manifest, ShardRecord
from tests import builders, faults

POISON = builders.picture(11)
"""The image of sample 0011, in shard 1."""


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are copies of this process, with what it has patched."""
    those = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr("pipeline.engine.worker.multiprocessing", those)


@pytest.fixture
def source(tmp_path: Path) -> str:
    for i in range(4):
        builders.shard(tmp_path / "in" / f"{i}.tar", 3, first=10 * i)
    return str(tmp_path / "in" / "*.tar")


def run(
    source: str, out: Path, seen: list[Event] | None = None, *, retry_quarantine: bool = False, **changes: Any
) -> Manifest:  # fmt: skip
    content = builders.recipe(source, out, None, **{"run.devices": ["cpu", "cpu"], **changes})
    observe = (lambda event: None) if seen is None else seen.append
    return run_job(make_plan(validate(JobConfig, content, "test")), observe=observe, retry_quarantine=retry_quarantine)


def poisoned(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Whoever decodes the poisonous image acts."""
    read = reading.read_picture

    def poisonous(data: bytes, *args: Any) -> Any:
        if data == POISON:
            act()
        return read(data, *args)

    monkeypatch.setattr(reading, "read_picture", poisonous)


def once(mark: Path, act: Callable[[], object]) -> Callable[[], None]:
    """Acts the first time only, in whatever process."""

    def first() -> None:
        if not mark.exists():
            mark.touch()
            act()

    return first


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("format", [pytest.param("webdataset", marks=pytest.mark.slow), "parquet", "folder"])
def test_a_worker_that_dies_once_costs_nothing_but_time(
    format: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[Event]()
    run(source, tmp_path / "whole", **{"output.format": format, "run.devices": ["cpu"]})
    poisoned(monkeypatch, once(tmp_path / "dead", die))
    manifest = run(source, tmp_path / "out", seen, **{"output.format": format})
    assert manifest.complete
    assert faults.difference(faults.settled(tmp_path / "out"), faults.settled(tmp_path / "whole")) == []
    assert any("killed by SIGKILL" in event.text for event in seen if isinstance(event, Noted))
    back = sum(event.told.images for event in seen if isinstance(event, TakenBack))
    assert sum(event.images for event in seen if isinstance(event, Progress)) - back == 12


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]])
def test_a_poison_shard_is_set_aside_and_tried_by_the_next_run(
    devices: list[str], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "whole")
    seen = list[Event]()
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, die)
        manifest = run(source, tmp_path / "out", seen, **{"run.devices": devices, "run.timeout": 60})
    assert (manifest.complete, manifest.shards.finished, manifest.aside) == (False, 3, {"1": "killed by SIGKILL"})
    record = json.loads((tmp_path / "out" / "aside" / "1.json").read_text())
    assert record == {"version": 1, "shard": "1", "tries": 3, "reason": "killed by SIGKILL"}
    assert [event.aside.shard for event in seen if isinstance(event, SetAside)] == ["1"]
    assert {path.name for path in (tmp_path / "out" / "data").iterdir()} == {"0.tar", "2.tar", "3.tar"}
    assert {path.name for path in (tmp_path / "out" / ".parts").iterdir()} == {"lock"}
    begun = list[int]()
    monkeypatch.setattr("pipeline.engine.sites.Worker", _counting(begun))
    assert run(source, tmp_path / "out", **{"run.devices": ["cpu"]}).complete  # not in this process
    assert len(begun) == 1
    assert not list((tmp_path / "out" / "aside").iterdir())
    assert builders.tree(tmp_path / "out", "data", "quarantine") == builders.tree(
        tmp_path / "whole", "data", "quarantine"
    )


def _counting(begun: list[int]) -> Callable[..., Any]:
    from pipeline.engine.worker import Worker

    def start(*given: Any, **options: Any) -> Worker:
        begun.append(1)
        return Worker(*given, **options)

    return start


def test_a_hung_decoder_is_killed(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, lambda: time.sleep(60))
    manifest = run(source, tmp_path / "out", **{"run.devices": ["cpu"], "run.timeout": 0.7, "run.tries": 1})
    assert manifest.aside == {"1": "nothing came of it in 0.7 s (run.timeout)"}
    assert manifest.shards.finished == 3


def test_an_error_of_the_code_is_told_and_sets_one_shard_aside(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("no memory\nleft")

    poisoned(monkeypatch, fail)
    manifest = run(source, tmp_path / "out", **{"run.tries": 1})
    assert manifest.aside == {"1": "RuntimeError: no memory left"}
    assert "in fail" in capfd.readouterr().err


def test_a_job_of_which_nothing_comes_but_deaths_ends(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "read_picture", lambda *_: die())
    with pytest.raises(UserError, match=r"3 shards ended every worker, and none is done; the last, .: killed by SIGKI"):
        run(source, tmp_path / "out", **{"run.tries": 1})
    assert not list((tmp_path / "out" / "data").iterdir())
    assert len(list((tmp_path / "out" / "aside").iterdir())) == 3


def test_what_the_user_can_mend_ends_the_job(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UserError("caption: none")

    poisoned(monkeypatch, fail)
    with pytest.raises(UserError, match=r"^caption: none$"):
        run(source, tmp_path / "out")


def test_a_worker_that_dies_after_its_record_has_done_its_shard(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = ledgers.Ledger.commit
    dead = tmp_path / "dead"

    def last_breath(self: ledgers.Ledger, record: ShardRecord) -> None:
        commit(self, record)
        if record.shard == "1":
            assert not dead.exists(), "done again"
            dead.touch()
            die()

    monkeypatch.setattr(ledgers.Ledger, "commit", last_breath)
    seen = list[Event]()
    assert run(source, tmp_path / "out", seen).complete
    assert sum(type(event).__name__ == "ShardDone" for event in seen) == 4


def test_a_limit_holds_whatever_dies(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(source, tmp_path / "whole", limit=7)
    poisoned(monkeypatch, once(tmp_path / "dead", die))
    manifest = run(source, tmp_path / "out", limit=7, **{"run.timeout": 60})
    assert (manifest.counts.read, manifest.complete) == (7, True)
    assert faults.difference(faults.settled(tmp_path / "out"), faults.settled(tmp_path / "whole")) == []


def test_a_killed_run_leaves_a_mark_and_the_next_sets_the_poison_aside(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, die)
    one = {"run.devices": ["cpu"], "run.tries": 1}
    child = os.fork()
    if child == 0:
        try:
            run(source, tmp_path / "out", **one)
        finally:
            os._exit(70)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "out" / MARK).exists()
    manifest = run(source, tmp_path / "out", **one)
    assert (manifest.aside, manifest.shards.finished) == ({"1": "killed by SIGKILL"}, 3)
    assert not (tmp_path / "out" / MARK).exists()


def test_a_shard_that_is_mended_keeps_what_it_has_when_its_worker_dies(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders.tar(tmp_path / "in" / "1.tar", [("a.png", b"no image"), ("b.png", builders.picture(5))])
    before = run(source, tmp_path / "out")
    assert before.counts.undecodable == 1
    read = reading.Reader.decode_rows
    monkeypatch.setattr(
        reading.Reader, "decode_rows", lambda self, item: die() if item.key == "a" else read(self, item)
    )
    manifest = run(source, tmp_path / "out", retry_quarantine=True, **{"run.tries": 1})
    assert manifest.aside == {"1": "killed by SIGKILL"}
    assert (manifest.complete, manifest.counts) == (False, before.counts)
    assert set(builders.members_of(tmp_path / "out" / "data" / "1.tar")) >= {"b.png"}


def test_a_record_of_a_shard_that_is_gone_goes(source: str, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    folder = tmp_path / "out" / "aside"
    folder.mkdir()
    (folder / "x.json").write_text('{"version": 1, "shard": "x", "tries": 3, "reason": "killed by SIGKILL"}')
    assert run(source, tmp_path / "out").complete
    (folder / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"aside/x\.json was written by an older version"):
        run(source, tmp_path / "out")
