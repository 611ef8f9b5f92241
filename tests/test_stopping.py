"""Signals, closed pipes and full disks: one line, the right code, no process and nothing half-done left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from pipeline.cli import FAILED, main
from pipeline.posix import STOPPING
from pipeline.stopping import PATIENCE, Stopped, Stopping, stoppable
from tests import builders

SLOW = """
import sys, time
from pipeline.streams.shards import TarWriter
add = TarWriter.add
def slowly(self, *given):
    time.sleep(0.2)
    return add(self, *given)
TarWriter.add = slowly
if __name__ == "__main__":
    from pipeline.cli import main
    sys.exit(main(sys.argv[1:]))
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def job(folder: Path, *, devices: int = 1, out: str = "out") -> Path:
    for i in range(4):
        builders.shard(folder / f"in-{i}.tar", 4, first=10 * i)
    content = builders.recipe(folder / "in-*.tar", folder / out, None, **{"run.devices": ["cpu"] * devices})
    (folder / f"{out}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{out}.yaml"


def started(folder: Path, recipe: Path, *before: str) -> subprocess.Popen[str]:
    (folder / "slow.py").write_text(SLOW)
    return subprocess.Popen(
        [*before, sys.executable, str(folder / "slow.py"), "run", str(recipe)], env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(folder: Path, pattern: str, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < end, f"no {pattern} in {seconds} s"
        time.sleep(0.02)


def wait_until_gone(group: int) -> None:
    """Workers are joined; Python's own tracker of shared resources takes a moment to see that its parent is gone."""
    end = time.monotonic() + 10
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.05)
        pytest.fail("a process of the group is left")


SHARD, START = "out/shards/*.json", "out/.parts/lock"
BRIEF = [(1, SHARD, signal.SIGHUP), (2, SHARD, signal.SIGTERM)]
CASES = [(devices, moment, number) for devices, moment in ((1, SHARD), (2, SHARD), (2, START)) for number in STOPPING]


@pytest.mark.parametrize(
    ("devices", "moment", "number"),
    [pytest.param(*case, marks=[] if case in BRIEF else pytest.mark.slow) for case in CASES],
)
def test_a_signal_ends_a_job_in_order(devices: int, moment: str, number: signal.Signals, tmp_path: Path) -> None:
    recipe = job(tmp_path, devices=devices)
    process = started(tmp_path, recipe)
    wait_for(tmp_path, moment)
    if moment.endswith("lock"):
        time.sleep(0.5)  # workers import what they need
    for _ in range(5):  # a terminal sends them to the whole group, and people press more than once
        os.killpg(process.pid, number)
        time.sleep(0.03)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("doppel: ")]
    done = len(list((tmp_path / "out" / "shards").glob("*.json")))
    assert f", {done} of 4 shards are finished; nothing half-done is left" in line
    assert (number.name in line) == (number != signal.SIGINT)
    assert done < 4
    assert (done > 0) == moment.endswith("json")
    wait_until_gone(process.pid)
    assert {path.name for path in (tmp_path / "out" / ".parts").iterdir()} == {"lock"}
    assert main(["run", str(recipe)]) == 0
    assert main(["run", str(job(tmp_path, out="whole"))]) == 0
    assert builders.tree(tmp_path / "out", "data") == builders.tree(tmp_path / "whole", "data")


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    process = started(tmp_path, job(tmp_path), "nohup")
    wait_for(tmp_path, "out/shards/*.json")
    os.killpg(process.pid, signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_signal_before_the_job_begins(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(
        "import sys, time, pipeline.cli as cli\n"
        "cli.recipes_command = lambda args: print('here', flush=True) or time.sleep(60)\n"
        "sys.exit(cli.main(['recipes']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "wait.py")], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert said == ("doppel: interrupted by SIGTERM; nothing half-done is left, the same command goes on from here\n")


def test_further_signals_wait_until_tidying_up_should_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("pipeline.stopping.time.monotonic", lambda: now[0])
    stopping = Stopping()
    with pytest.raises(Stopped):
        stopping(signal.SIGTERM, None)
    for _ in range(4):
        stopping(signal.SIGINT, None)
    now[0] += PATIENCE
    with pytest.raises(Stopped):
        stopping(signal.SIGINT, None)
    assert stopping.number == signal.SIGTERM


def test_what_does_not_end_in_time_ends_with_the_process() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from pipeline import stopping\n"
        "stopping.GRACE = 0.3\n"
        "with stopping.stoppable():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        time.sleep(60)\n"
    )
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=50
    )
    assert time.monotonic() - begun < 50
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == (
        "doppel: interrupted by SIGTERM; what was at work is dropped, the same command goes on from here\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_model_call_that_goes_on_does_not_keep_the_command(devices: int, tmp_path: Path) -> None:
    recipe = job(tmp_path, devices=devices)
    slow = SLOW.replace(
        "if __name__",
        "import pipeline.engine.transforming as t\nhas = t.transform\n"
        "def long(rows, *given):\n    open('begun', 'w').close(); time.sleep(100)\nt.transform = long\nif __name__",
        1,
    )
    (tmp_path / "slow.py").write_text(slow)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), "run", str(recipe)], env=ENVIRONMENT, cwd=tmp_path,
        start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(tmp_path, "begun")
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert time.monotonic() - begun < 20
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert main(["run", str(recipe)]) == 0
    assert main(["run", str(job(tmp_path, out="whole"))]) == 0
    assert builders.tree(tmp_path / "out", "data", ".parts") == builders.tree(tmp_path / "whole", "data", ".parts")


def test_handlers_are_put_back_where_no_signal_came() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stoppable():
        assert all(isinstance(signal.getsignal(n), Stopping) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize("stream", ["stdout", "both"])
def test_nobody_reads_any_more(stream: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "recipes"], env=ENVIRONMENT, stdout=writing,
        stderr=writing if stream == "both" else subprocess.PIPE,
    )  # fmt: skip
    os.close(writing)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert not said


def test_output_that_finds_no_room() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "recipes"], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert result.returncode == FAILED
    assert result.stderr.startswith("doppel: No space left on device; ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("format", ["webdataset", "parquet", "folder"])
def test_a_disk_that_is_full(format: str, tmp_path: Path) -> None:
    recipe = job(tmp_path)
    content = yaml.safe_load(recipe.read_text())
    content["output"]["format"] = format
    recipe.write_text(yaml.safe_dump(content))
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); from pipeline.cli import main"
    )
    command = f"{limited}; sys.exit(main(['run', {str(recipe)!r}]))"
    result = subprocess.run(
        [sys.executable, "-c", command], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == FAILED, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("doppel: ")]
    assert "File too large" in line
    assert "Traceback" not in result.stderr
    assert main(["run", str(recipe)]) == 0
