"""Processes that share a job: killed, stopped for longer than their lease, and with calendars minutes apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from tests import builders

CHILD = """
import datetime, os, sys, time
offset, pause = float(os.environ["OFFSET"]), float(os.environ["PAUSE"])
real, today = time.time, datetime.datetime
time.time = lambda: real() + offset

class Shifted(today):
    @classmethod
    def now(cls, zone=None):
        return today.now(zone) + datetime.timedelta(seconds=offset)

from pipeline.streams import claims
from pipeline.streams.shards import TarWriter
claims.datetime = Shifted
add = TarWriter.add

def slowly(self, *given):
    time.sleep(pause)
    return add(self, *given)

TarWriter.add = slowly
if __name__ == "__main__":
    from pipeline.cli import main
    sys.exit(main(sys.argv[1:]))
"""
SHARDS = 8
pytestmark = pytest.mark.slow


class Folder:
    """A job of small shards, and processes that share it."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "out"
        for i in range(SHARDS):
            builders.shard(root / "in" / f"{i}.tar", 4, first=10 * i)
        (root / "child.py").write_text(CHILD)

    def recipe(self, out: str = "out", lease: float = 60) -> str:
        content = builders.recipe(self.root / "in" / "*.tar", self.root / out, None, **{"run.lease": lease})
        file = self.root / f"{out}-{lease}.yaml"
        file.write_text(yaml.safe_dump(content))
        return str(file)

    @contextmanager
    def started(self, lease: float = 60, offset: float = 0, pause: float = 0) -> Iterator[subprocess.Popen[str]]:
        """A process; it and its workers are a group, which is gone at the end."""
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        process = subprocess.Popen(
            [sys.executable, str(self.root / "child.py"), "run", self.recipe(lease=lease), "--share"],
            env={**os.environ, "PYTHONPATH": path, "OFFSET": str(offset), "PAUSE": str(pause)},
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)

    def wait_for(self, pattern: str, count: int = 1) -> None:
        end = time.monotonic() + 120
        while len(list(self.out.glob(pattern))) < count:
            assert time.monotonic() < end, f"no {pattern}"
            time.sleep(0.02)

    def check(self) -> None:
        """All is as of one run that was alone, and nothing is left."""
        assert main(["run", self.recipe("alone")]) == 0
        for parts in ("data", "quarantine"):
            assert builders.tree(self.out, parts) == builders.tree(self.root / "alone", parts)
        assert {path.stem for path in (self.out / "shards").iterdir()} == set(map(str, range(SHARDS)))
        assert json.loads((self.out / "manifest.json").read_bytes())["complete"]
        assert list((self.out / "claims").iterdir()) == []

    def parts(self) -> set[str]:
        return {path.name for path in (self.out / ".parts").iterdir()}

    def times(self) -> Counter[str]:
        """How often each shard was done."""
        lines = map(json.loads, (self.out / "events.jsonl").read_text().splitlines())
        return Counter(line["shard"] for line in lines if line["event"] == "shard")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def ended(process: subprocess.Popen[str]) -> int:
    said, _ = process.communicate(timeout=240)
    assert "Traceback" not in said, said
    return process.returncode


def test_calendars_that_disagree_by_minutes_change_nothing(folder: Folder) -> None:
    with (
        folder.started(offset=-300, pause=0.3) as a, folder.started(offset=0, pause=0.3) as b,
        folder.started(offset=900, pause=0.3) as c,
    ):  # fmt: skip
        assert [ended(process) for process in (a, b, c)] == [0, 0, 0]
    assert folder.times() == Counter(map(str, range(SHARDS)))
    assert folder.parts() == {"lock"}
    folder.check()


def test_the_shards_of_a_killed_run_are_taken_over(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    with folder.started(lease=2, pause=0.5, offset=600) as killed:
        folder.wait_for("shards/*.json", 2)
        folder.wait_for("claims/[0-9].json")
        assert main(["status", str(folder.out), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["total"], found["complete"]) == (SHARDS, False)
        assert found["running"]
        os.killpg(killed.pid, signal.SIGKILL)
    with folder.started(lease=2) as other:
        assert ended(other) == 0
    folder.check()
    assert folder.parts() == {"lock"}


def test_a_run_that_was_stopped_for_longer_than_its_lease_goes_on(folder: Folder) -> None:
    with folder.started(lease=1, pause=0.5) as stopped:
        folder.wait_for("claims/[0-9].json")
        os.killpg(stopped.pid, signal.SIGSTOP)
        with folder.started(lease=1) as other:
            assert ended(other) == 0
        os.killpg(stopped.pid, signal.SIGCONT)
        assert ended(stopped) == 0
    folder.check()


def test_a_run_that_wakes_up_while_another_does_its_shards_changes_nothing(folder: Folder) -> None:
    with folder.started(lease=1, pause=0.5) as stopped:
        folder.wait_for("claims/[0-9].json")
        os.killpg(stopped.pid, signal.SIGSTOP)
        with folder.started(lease=1, pause=0.5) as other:
            folder.wait_for("shards/*.json", SHARDS - 2)
            time.sleep(3)  # what was claimed is taken over, or nearly
            os.killpg(stopped.pid, signal.SIGCONT)
            assert [ended(process) for process in (stopped, other)] == [0, 0]
    folder.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_releases_all_claims_at_once(folder: Folder, number: signal.Signals) -> None:
    with folder.started(pause=0.5) as process:
        folder.wait_for("claims/[0-9].json")
        os.killpg(process.pid, number)
        assert ended(process) == 128 + number
    assert list((folder.out / "claims").iterdir()) == []
    assert folder.parts() == {"lock"}
    with folder.started() as other:
        assert ended(other) == 0
    folder.check()
