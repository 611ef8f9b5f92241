"""`--retry-quarantine`: only what failed is done again, and the job is as one that had succeeded at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.config import validate
from pipeline.engine import encoding, reading
from pipeline.engine.events import Event, Noted, ShardDone
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.engine.supervising import work_through
from pipeline.engine.worker import Message
from pipeline.engine.writing import KEPT
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.opening import Undecodable
from pipeline.streams import ledger
from pipeline.streams.job_records import Manifest
from pipeline.streams.quarantine import read_quarantine
from pipeline.streams.written import read_written
from tests import builders
from tests.faults import TIMES

KEYS = ["a", "b.2", "c", "d/e", "f.1.2", "g"]
"""Keys with dots and folders; the images of every second one fail at first."""
FORMATS = ("webdataset", "parquet")


class Job:
    """A job over two tars, in which some images cannot be decoded while it is `ill`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.root, self.changes = root, changes
        self.ill, self.decoded, self.encoded = False, 0, 0
        self.notes: list[str] = []
        self.bad = {builders.picture(i) for i in range(1, 12, 2)}
        for name, first in (("x", 0), ("y", 6)):
            builders.tar(root / f"in/{name}.tar", [
                (f"{key}.{ext}", content) for i, key in enumerate(KEYS, first) for ext, content in (
                    ("png", builders.picture(i)), ("cls", b"%d" % (i % 3)), ("txt", b"caption %d" % i),
                    ("seg.json", b'{"n": %d}' % i))
            ])  # fmt: skip
        decode, encode = reading.read_picture, encoding.encode

        def decoded(data: bytes, *args: Any, **options: Any) -> Any:
            self.decoded += 1
            if self.ill and data in self.bad:
                raise Undecodable("the decoder was broken")
            return decode(data, *args, **options)

        def encoded(*args: Any, **options: Any) -> Any:
            self.encoded += 1
            return encode(*args, **options)

        monkeypatch.setattr(reading, "read_picture", decoded)
        monkeypatch.setattr(encoding, "encode", encoded)

    def content(self, out: str) -> dict[str, Any]:
        return builders.recipe(self.root / "in/*.tar", self.root / out, **{"model": None, **self.changes})

    def run(self, out: str, *, ill: bool = False, **how: Any) -> Manifest:
        self.ill, self.decoded, self.encoded, self.notes = ill, 0, 0, []

        def observe(event: Event) -> None:
            if isinstance(event, Noted):
                self.notes.append(event.text)

        return run_job(make_plan(validate(JobConfig, self.content(out), "test")), observe=observe, **how)

    def tree(self, out: str) -> dict[str, Any]:
        """All that a job has written, without times."""
        records = {
            file.name: {key: value for key, value in yaml.safe_load(file.read_text()).items() if key not in TIMES}
            for file in sorted((self.root / out / "shards").iterdir())
        }
        return {**builders.tree(self.root / out, "data", "quarantine", "provenance"), **records}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("with_model", [False, True])
def test_only_the_failed_samples_are_done_and_all_is_as_at_once(
    format: str, with_model: bool, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"model": model, "operator.copies": 2} if with_model else {}
    job = Job(tmp_path, monkeypatch, **{"output.format": format, **changes})
    copies = 2 if with_model else 1
    expected = job.run("at_once")
    assert (expected.counts.written, expected.counts.images) == (12, 12 * copies)
    assert job.run("out", ill=True).counts.undecodable == 6
    assert job.run("out").counts.undecodable == 6  # without the option, nothing is done
    assert job.decoded == 0
    found = job.run("out", retry_quarantine=True)
    assert (job.decoded, job.encoded) == (6, 6 * copies)
    assert job.tree("out") == job.tree("at_once")
    assert found.model_copy(update={"seconds": 0}) == expected.model_copy(update={"seconds": 0})
    assert job.notes == ["6 samples in quarantine are tried again, in 2 shards (x, y)"]
    assert not any((job.root / "out/quarantine").iterdir())


def test_what_fails_again_stays_in_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    job.run("out", ill=True)
    before = job.tree("out")
    assert job.run("out", ill=True, retry_quarantine=True).counts.undecodable == 6
    assert (job.decoded, job.encoded) == (6, 0)
    assert job.tree("out") == before
    job.bad = {builders.picture(1)}
    assert job.run("out", ill=True, retry_quarantine=True).counts.undecodable == 1
    (left,) = read_quarantine(tmp_path / "out/quarantine/x.tar")
    assert left[0].key == "b.2"
    assert not (tmp_path / "out/quarantine/y.tar").exists()


class Given:
    """A `Channel` that gives some shards, and keeps what it is sent."""

    def __init__(self, *names: str) -> None:
        self._left, self.sent = list(names), list[Message]()

    def send(self, message: Message) -> None:
        self.sent.append(message)

    def next_shard(self) -> str | None:
        return self._left.pop(0) if self._left else None

    def close(self) -> None:
        self._left.clear()


def test_workers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    job.run("out", ill=True)
    job.ill, job.encoded, given = False, 0, Given("x")
    plan = make_plan(validate(JobConfig, job.content("out"), "test"))
    work_through(given, plan, "cpu", None, frozenset(), frozenset({"x"}))
    (done,) = [event.record for event in given.sent if isinstance(event, ShardDone)]
    assert (job.encoded, done.counts.written, done.counts.read) == (3, 6, 6)


@pytest.mark.parametrize("changes", [{"output.format": "folder"}, {"clip": "(.).*"}])
def test_where_samples_hang_on_each_other_the_shard_is_done_whole(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path, monkeypatch, **changes)
    if "clip" not in changes:  # keys must differ
        (tmp_path / "in/y.tar").unlink()
    job.run("at_once")
    job.run("out", ill=True)
    job.run("out", retry_quarantine=True)
    assert job.decoded == (12 if "clip" in changes else 6)
    assert "are done whole" in job.notes[1]
    assert job.tree("out") == job.tree("at_once")


def test_rows_of_a_hugging_face_set_keep_every_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, List, Value

    job = Job(tmp_path, monkeypatch, **{"output.format": "parquet"})
    columns = {"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "text": Value("string"),
               "raw": Value("binary"), "when": Value("timestamp[us]"), "boxes": List(List(Value("float32"))),
               "key": Value("int64")}  # fmt: skip
    rows = [
        {"image": {"bytes": builders.picture(i), "path": None}, "label": i % 2 if i % 3 else None,
         "text": f"row {i} ü" if i % 4 else None, "raw": bytes([i]), "when": 10**15 + i, "boxes": [[0.5, i]], "key": i}
        for i in range(8)
    ]  # fmt: skip
    Dataset.from_list(rows, features=Features(columns)).to_parquet(tmp_path / "in/rows.parquet")
    job.changes["input"] = {"format": "hub", "path": str(tmp_path / "in/rows.parquet")}
    assert job.run("at_once").counts.written == 8
    assert job.run("out", ill=True).counts.written == 4
    job.run("out", retry_quarantine=True)
    assert job.encoded == 4
    assert job.tree("out") == job.tree("at_once")


def test_keys_that_are_written_and_failed_make_the_shard_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    members = [(f"{key}.png", builders.picture(i)) for i, key in enumerate(["a", "b", "a"])]
    builders.tar(tmp_path / "in/x.tar", members)
    job.run("out", ill=True)
    job.run("at_once")
    job.run("out", retry_quarantine=True)
    assert job.tree("out") == job.tree("at_once")


def test_other_settings_need_a_word_and_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    job.run("out", ill=True)
    kept = builders.tree(tmp_path / "out", "data")
    job.changes = {"output.codec": "webp"}
    with pytest.raises(UserError, match=r"output\.codec"):
        job.run("out", retry_quarantine=True)
    assert builders.tree(tmp_path / "out", "data") == kept
    manifest = job.run("out", retry_quarantine=True, on_change="keep")
    assert manifest.notes == {KEPT: 6}
    members = builders.members_of(tmp_path / "out/data/x.tar")
    assert [name for name in members if name.endswith((".png", ".webp"))] == [
        "a.png", "b.2.webp", "c.png", "d/e.webp", "f.1.2.png", "g.webp",
    ]  # fmt: skip


def test_a_crash_at_any_moment_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more of the calls that change the job's folder is done each time; the same command then makes all whole."""
    job = Job(tmp_path, monkeypatch)
    (tmp_path / "in/y.tar").unlink()
    job.run("at_once")
    job.run("ill", ill=True)
    for call in range(100):
        out = f"out{call}"
        shutil.copytree(tmp_path / "ill", tmp_path / out)
        with monkeypatch.context() as patch:
            left = [call]
            for home, name in ((os, "replace"), (Path, "unlink"), (ledger, "sync_folder")):
                patch.setattr(home, name, stopping_after(left, getattr(home, name)))
            try:
                job.run(out, retry_quarantine=True)
            except KeyboardInterrupt:
                pass
            else:
                break
        job.run(out, retry_quarantine=True)
        assert job.tree(out) == job.tree("at_once"), call
    assert call > 6
    assert job.tree(out) == job.tree("at_once")


def stopping_after(calls: list[int], real: Any) -> Any:
    """The function `real`, which raises when `calls` have been made; all with the same list count together."""

    def counted(*args: Any, **options: Any) -> Any:
        if calls[0] == 0:
            raise KeyboardInterrupt
        calls[0] -= 1
        return real(*args, **options)

    return counted


def test_what_is_not_doppel_s_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    plan = make_plan(validate(JobConfig, job.content("out"), "test"))
    stream, _ = reading.open_input(plan)
    (tmp_path / "data").mkdir()
    builders.tar(tmp_path / "data/x.tar", [("a.png", b"1"), ("a.doppel.json", b"{}")])
    with pytest.raises(UserError, match="provenance of a"):
        list(read_written(tmp_path / "data/x.tar", stream))
    builders.tar(tmp_path / "data/x.tar", [("a.png", b"1")])
    with pytest.raises(UserError, match="belongs to no output"):
        list(read_written(tmp_path / "data/x.tar", stream))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path, monkeypatch)
    job.run("out", ill=True)
    job.ill = False
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(job.content("out")))
    assert main(["run", str(file), "--retry-quarantine"]) == 0
    said = capsys.readouterr()
    assert "6 samples in quarantine are tried again, in 2 shards (x, y)" in said.err
    assert "12 images from 12 samples in 2 of 2 shards, 0 in quarantine" in said.out
