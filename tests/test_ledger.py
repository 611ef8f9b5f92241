"""Nothing is lost, nothing is done twice, and finished shards are only skipped while they are still true."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.config import validate
from pipeline.engine.events import Event
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.output_keys import Shape
from pipeline.streams.files import Stored
from pipeline.streams.job_records import Job, Manifest
from pipeline.streams.ledger import Ledger
from pipeline.streams.reconciling import OnChange
from tests import builders


def run(content: dict[str, Any], on_change: OnChange = "refuse", observe: Any = lambda event: None) -> Manifest:
    return run_job(make_plan(validate(JobConfig, content, "test")), on_change=on_change, observe=observe)


@pytest.fixture
def content(tmp_path: Path, model: Path) -> dict[str, Any]:
    for i in range(3):
        builders.shard(tmp_path / "in" / f"{i}.tar", 4, first=4 * i)
    return builders.recipe(tmp_path / "in" / "*.tar", tmp_path / "out", model)


def finished(out: Path) -> dict[str, int]:
    return {f.stem: f.stat().st_mtime_ns for f in (out / "shards").glob("*.json")}


def test_a_second_run_does_nothing(content: dict[str, Any], tmp_path: Path) -> None:
    first = run(content)
    before = finished(tmp_path / "out")
    events: list[Event] = []
    assert run(content, observe=events.append) == first
    assert events == []
    assert finished(tmp_path / "out") == before


def test_only_missing_shards_are_done(content: dict[str, Any], tmp_path: Path) -> None:
    run(content)
    whole, before = builders.tree(tmp_path / "out", "data"), finished(tmp_path / "out")
    (tmp_path / "out" / "shards" / "1.json").unlink()
    (tmp_path / "out" / "data" / "2.tar").unlink()  # somebody removed an output: its record is no longer true
    run(content)
    after = finished(tmp_path / "out")
    assert [name for name in before if before[name] == after[name]] == ["0"]
    assert builders.tree(tmp_path / "out", "data") == whole


def test_another_configuration_is_refused_with_what_changed(content: dict[str, Any], tmp_path: Path) -> None:
    run(content)
    before = builders.tree(tmp_path / "out", ".")
    content["operator"]["t_boom"] = 0.5
    content["operator"]["steps"] = 3
    with pytest.raises(UserError) as caught:
        run(content)
    for part in ("operator.t_boom.fraction (0.4 → 0.5)", "operator.steps (2 → 3)", "--keep-finished", "--overwrite"):
        assert part in str(caught.value)
    assert builders.tree(tmp_path / "out", ".") == before  # nothing was touched

    (tmp_path / "out" / "shards" / "0.json").unlink()
    run(content, "keep")
    kept = builders.tree(tmp_path / "out", "data")
    assert kept["data/1.tar"] == before["data/1.tar"]
    assert kept["data/0.tar"] != before["data/0.tar"]
    run(content, "overwrite")
    assert builders.tree(tmp_path / "out", "data")["data/1.tar"] != before["data/1.tar"]


def test_another_model_code_or_salt_is_refused(content: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    run(content)
    other = builders.model_folder(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="differs in the model's files:"):
        run({**content, "model": {**content["model"], "path": str(other)}})
    monkeypatch.setenv("DOPPEL_SALT", "sixteen bytes or more")
    with pytest.raises(UserError, match="differs in the salt:") as caught:
        run(content)
    assert "sixteen" not in str(caught.value)
    monkeypatch.delenv("DOPPEL_SALT")
    monkeypatch.setattr("pipeline.job.hashes.code_hash", lambda *_: "0" * 64)
    with pytest.raises(UserError, match="differs in doppel's code:"):
        run(content)


def test_the_same_model_elsewhere_is_the_same_job(content: dict[str, Any], tmp_path: Path) -> None:
    run(content)
    moved = builders.model_folder(tmp_path / "moved")  # same seed, same bytes
    before = finished(tmp_path / "out")
    run({**content, "model": {**content["model"], "path": str(moved)}})
    assert finished(tmp_path / "out") == before


def test_changed_input_is_noticed_and_a_touched_file_is_not(content: dict[str, Any], tmp_path: Path) -> None:
    run(content)
    source = tmp_path / "in" / "1.tar"
    os.utime(source, ns=(1, 1))
    before = finished(tmp_path / "out")
    run(content)
    assert finished(tmp_path / "out") == before
    data = bytearray(source.read_bytes())
    data[700] ^= 1  # same size, one bit inside an image
    source.write_bytes(data)
    with pytest.raises(UserError, match=r"input of 1 shard \(1\) changed since: --redo-changed"):
        run(content)


def test_a_folder_that_is_not_ours_is_left_alone(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    changes: tuple[OnChange, ...] = ("refuse", "keep", "overwrite")
    for on_change in changes:
        with pytest.raises(UserError, match="not empty and holds no doppel job"):
            run(content, on_change)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("on_change", ["refuse", "keep", "overwrite"])
def test_a_folder_of_the_previous_version_is_refused_in_one_sentence(
    content: dict[str, Any], tmp_path: Path, on_change: OnChange
) -> None:
    run(content)
    job = tmp_path / "out" / "job.json"
    job.write_text(
        json.dumps({name: value for name, value in json.loads(job.read_text()).items() if name != "version"})
    )
    before = builders.tree(tmp_path / "out", ".")
    sentence = "job.json was written by an older version of doppel; this one reads schema 1 only: name another folder"
    with pytest.raises(UserError, match=sentence) as caught:
        run(content, on_change)
    assert "\n" not in str(caught.value)
    assert builders.tree(tmp_path / "out", ".") == before


def test_overwrite_removes_all_in_the_folders_of_the_job_and_nothing_else(
    content: dict[str, Any], tmp_path: Path
) -> None:
    run(content)
    (tmp_path / "out" / "data" / "old.tar").write_text("no record names it")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    run({**content, "input": {**content["input"], "urls": str(tmp_path / "in" / "2.tar")}}, "overwrite")
    assert [p.name for p in (tmp_path / "out" / "data").iterdir()] == ["2.tar"]
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_two_processes_cannot_write_to_one_folder(content: dict[str, Any], tmp_path: Path) -> None:
    job = make_plan(validate(JobConfig, content, "test"))
    with (
        Ledger(tmp_path / "out").open(Job(config={}, hashes={}, outputs=Shape(), licences={})),
        pytest.raises(UserError, match="another"),
    ):
        run_job(job)


def test_a_full_disk_leaves_a_resumable_job(content: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    import errno

    from pipeline.streams import store

    whole = store.publish

    def full(part: Path, final: Path) -> Stored:
        if final.name == "1.tar":
            raise OSError(errno.ENOSPC, "No space left on device", str(final))
        return whole(part, final)

    monkeypatch.setattr(store, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        run(content)
    assert set(finished(tmp_path / "out")) == {"0"}
    assert [p.name for p in (tmp_path / "out" / "data").iterdir()] == ["0.tar"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"] is False
    monkeypatch.undo()
    assert run(content).complete
    assert [p.name for p in (tmp_path / "out" / ".parts").iterdir() if p.name != "lock"] == []


def forked(recipe: Path) -> int:
    """The process id of a copy of this process, which runs the command: all that a new one would import is here."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            code = main(["run", str(recipe)])
        finally:
            os._exit(code)
    return process


def started(recipe: Path) -> int:
    command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL).pid


@pytest.mark.parametrize(
    ("start", "devices", "kills"),
    [
        pytest.param(forked, ["cpu"], (2,), id="forked"),
        pytest.param(started, ["cpu", "cpu"], (1, 4), marks=pytest.mark.slow, id="command"),
    ],
)
def test_kill_9_then_the_same_command_gives_the_same_bytes(
    start: Callable[[Path], int], devices: list[str], kills: tuple[int, ...], tmp_path: Path, model: Path
) -> None:
    """It is killed when so many shards are done, each time."""
    for i in range(6):
        builders.shard(tmp_path / "in" / f"{i}.tar", 12, first=12 * i)
    broken = builders.tar(tmp_path / "in" / "bad.tar", [("x.png", b"no image"), ("x.cls", b"0")])
    assert broken.exists()
    changes: dict[str, Any] = {"operator.steps": 30}
    run(builders.recipe(tmp_path / "in" / "*.tar", tmp_path / "whole", model, **changes))
    recipe = tmp_path / "recipe.yaml"
    changes["run.devices"] = devices
    recipe.write_text(yaml.safe_dump(builders.recipe(tmp_path / "in" / "*.tar", tmp_path / "out", model, **changes)))
    out = tmp_path / "out"
    for shards_done in kills:
        process = start(recipe)
        deadline = time.monotonic() + 120
        while len(list((out / "shards").glob("[0-9a-z]*.json"))) < shards_done and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL  # it had not finished on its own
        done = {f.stem for f in (out / "shards").glob("[0-9a-z]*.json")}
        assert shards_done <= len(done) < 7
        assert done <= {f.stem for f in (out / "data").iterdir()}  # a record is written after its data
    assert os.waitstatus_to_exitcode(os.waitpid(start(recipe), 0)[1]) == 0
    kept = ("data", "quarantine")
    assert builders.tree(out, *kept) == builders.tree(tmp_path / "whole", *kept)
    assert len(builders.tree(out, *kept)) == 8
