"""Jobs in object stores: the bytes of a job on a disk, resumed, reconciled and mended as there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.cli import main
from pipeline.streams import ownership, remote
from pipeline.streams.claims import WHOLE_JOB, Claims, new_owner
from pipeline.streams.ledger import Ledger
from pipeline.streams.object_store import ObjectStore
from tests import bucket, builders
from tests.builders import tree


@pytest.fixture
def place() -> str:
    """A place for a job in the memory of this process, which is an object store as any other."""
    return f"memory://{uuid4().hex}/job"


def inputs(root: Path) -> None:
    for number in range(2):
        builders.shard(root / f"in/{number}.tar", 3, first=3 * number)
    builders.tar(root / "in/bad.tar", [("x.png", b"no image"), ("y.png", builders.picture(9))])


def run(root: Path, out: str | Path, *options: str, **changes: object) -> int:
    (root / "recipe.yaml").write_text(yaml.safe_dump(builders.recipe(root / "in/*.tar", out, None, **changes)))
    return main(["run", str(root / "recipe.yaml"), *options])


def made(place: str) -> Mapping[str, bytes]:
    """What a job has written, by its path."""
    store = ObjectStore(place)
    found = {entry.path: store.read(entry.path) for name in ("data", "quarantine") for entry in store.list(name)}
    return {path: content for path, content in found.items() if content is not None}


@pytest.mark.parametrize("format", ["webdataset", "parquet", "folder"])
def test_a_job_in_a_store_is_that_on_a_disk(tmp_path: Path, place: str, format: str) -> None:
    inputs(tmp_path)
    assert run(tmp_path, tmp_path / "out", **{"output.format": format}) == 0
    assert run(tmp_path, place, **{"output.format": format}) == 0
    assert made(place) == tree(tmp_path / "out", "data", "quarantine")
    mine, theirs = Ledger(place).manifest(), Ledger(tmp_path / "out").manifest()
    assert mine is not None
    assert theirs is not None
    assert mine.model_copy(update={"seconds": 0.0}) == theirs.model_copy(update={"seconds": 0.0})
    assert Ledger(place).store.top() == {name for name in Ledger(place).store.top() if not name.startswith(".")}


def test_a_job_in_a_bucket_is_that_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs(tmp_path)
    place = f"s3://{bucket.opened(monkeypatch)}/job"
    assert run(tmp_path, place) == 0
    assert run(tmp_path, tmp_path / "out") == 0
    assert made(place) == tree(tmp_path / "out", "data", "quarantine")


def test_a_job_goes_on_where_it_stopped(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    inputs(tmp_path)
    assert run(tmp_path, place) == 0
    before, store = made(place), ObjectStore(place)
    store.delete("shards/1.json")  # a crash came before the record
    store.delete("data/0.tar")
    assert run(tmp_path, place) == 0
    assert "1 shard (0) done again" in capsys.readouterr().err
    assert made(place) == before
    store.put("data/1.tar", bytes(len(before["data/1.tar"])))
    assert run(tmp_path, place, "--verify") == 0
    assert made(place) == before
    pieces = [store.read(entry.path) or b"" for entry in sorted(store.list("events"), key=lambda entry: entry.path)]
    events = [json.loads(line)["event"] for piece in pieces for line in piece.splitlines()]
    assert (events.count("start"), events.count("shard"), events.count("stop")) == (3, 6, 3)


def test_what_changed_or_went_is_asked_about(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    inputs(tmp_path)
    assert run(tmp_path, place) == 0
    builders.shard(tmp_path / "in/1.tar", 4, first=3)
    assert run(tmp_path, place) == 2
    assert f"{place}: the input of 1 shard (1) changed" in capsys.readouterr().err
    assert run(tmp_path, place, "--redo-changed") == 0
    (tmp_path / "in/1.tar").unlink()
    assert run(tmp_path, place, "--prune") == 0
    assert set(made(place)) == {"data/0.tar", "data/bad.tar", "quarantine/bad.tar"}
    assert run(tmp_path, place, **{"output.codec": "jpeg"}) == 2
    assert f"{place} holds a job that differs in output.codec" in capsys.readouterr().err
    assert run(tmp_path, place, "--overwrite", **{"output.codec": "jpeg"}) == 0


def test_only_failed_samples_are_done_again(tmp_path: Path, place: str) -> None:
    inputs(tmp_path)
    assert run(tmp_path, place) == 0
    before = made(place)
    assert run(tmp_path, place, "--retry-quarantine") == 0
    assert made(place) == before


class Busy(Exception):
    """What an object store says that wants to be asked more slowly."""

    response: ClassVar = {"ResponseMetadata": {"HTTPStatusCode": 503}}


def test_errors_that_pass_change_nothing(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    inputs(tmp_path)
    assert run(tmp_path, tmp_path / "out") == 0
    errors = cycle([Busy(), None, TimeoutError("slow"), None, ConnectionResetError("cut"), None])

    def troubled(plain: Callable[..., Any]) -> Callable[..., Any]:
        def work(*given: Any, **more: Any) -> Any:
            if (error := next(errors)) is not None:
                raise error
            return plain(*given, **more)

        return work

    for name in ("pipe_file", "put_file", "cat_file", "find", "info", "rm_file", "ls"):
        monkeypatch.setattr(MemoryFileSystem, name, troubled(getattr(MemoryFileSystem, name)))
    assert run(tmp_path, place) == 0
    monkeypatch.undo()
    assert made(place) == tree(tmp_path / "out", "data", "quarantine")


def test_a_place_that_cannot_hold_a_job_is_one_sentence(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs(tmp_path)
    store = ObjectStore(place)
    store.put("precious.txt", b"alive")
    assert run(tmp_path, place) == 2
    assert f"{place} is not empty and holds no doppel job" in capsys.readouterr().err
    store.delete("precious.txt")
    assert main(["run", str(tmp_path / "recipe.yaml"), "--set", f"input.urls={place}/data/*.tar"]) == 2
    assert "matches no file" in capsys.readouterr().err
    ObjectStore(place).put("data/0.tar", (tmp_path / "in/0.tar").read_bytes())
    assert main(["run", str(tmp_path / "recipe.yaml"), "--set", f"input.urls={place}/data/0.tar"]) == 2
    assert f"lies in {place}" in capsys.readouterr().err
    ObjectStore(place).clear("data")
    monkeypatch.setattr(ObjectStore, "exclusive", lambda self: "it forgets")
    assert run(tmp_path, place) == 2
    assert f"output.path: {place} cannot hold a job: it forgets" in capsys.readouterr().err
    assert made(place) == {}


def test_two_processes_do_not_write_to_one_place(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "LEASE", 1.0)
    inputs(tmp_path)
    with Claims(ObjectStore(place), new_owner(), lease=0.4).beating() as other:
        assert other.take(WHOLE_JOB)
        assert run(tmp_path, place) == 2
        assert f"is writing to {place}" in capsys.readouterr().err
    assert run(tmp_path, place) == 0
    assert list(ObjectStore(place).list("claims")) == []
