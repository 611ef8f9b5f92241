"""At every start the records of a job are compared with today's input and with the outputs on disk."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.config import validate
from pipeline.engine.events import Event, Noted, ShardDone
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.noticing import NO_CLASS
from pipeline.media.output_keys import Shape
from pipeline.streams.files import Stored
from pipeline.streams.job_records import Counts, Manifest, ShardRecord
from pipeline.streams.job_records import Job as JobRecord
from pipeline.streams.ledger import Ledger
from pipeline.streams.reconciling import AGAIN
from pipeline.streams.shard_names import shard_names
from tests import builders

EMPTY = JobRecord(config={}, hashes={}, outputs=Shape(), licences={})
FORMATS = ("webdataset", "parquet", "folder")


class Job:
    """A job without a model over some tars, and what is in its folder."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.source, self.out, self.changes = root / "in", root / "out", changes
        self.seen: list[Event] = []

    def tar(self, name: str, first: int, count: int = 4) -> Path:
        members = [(f"{i:04d}.png", builders.picture(i)) for i in range(first, first + count)]
        return builders.tar(self.source / name, members)

    def run(self, **how: Any) -> Manifest:
        self.seen = []
        changes = {**self.changes, **how.pop("changes", {})}
        content = builders.recipe(self.source / "*.tar", self.out, None, **changes)
        return run_job(make_plan(validate(JobConfig, content, "test")), observe=self.seen.append, **how)

    @property
    def done(self) -> list[str]:
        """The shards that the last run has done."""
        return [event.record.shard for event in self.seen if isinstance(event, ShardDone)]

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.seen if isinstance(event, Noted) and event.text != NO_CLASS]

    def keys(self) -> Counter[str]:
        """Every key in data/, whatever the format, and how often it is there."""
        found = Counter[str]()
        for path in (self.out / "data").rglob("*"):
            if path.suffix == ".tar":
                with tarfile.open(path) as tar:
                    found.update(name.split(".")[0] for name in tar.getnames() if name.endswith(".png"))
            elif path.suffix == ".parquet":
                import pyarrow.parquet as pq

                found.update(pq.read_table(path, columns=["key"]).column("key").to_pylist())
            elif path.suffix == ".png":
                found[path.stem] += 1
        return found


def keys(*numbers: range) -> Counter[str]:
    return Counter(f"{i:04d}" for some in numbers for i in some)


@pytest.fixture(params=FORMATS)
def job(tmp_path: Path, request: pytest.FixtureRequest) -> Job:
    made = Job(tmp_path, **{"output.format": request.param})
    for i in range(3):
        made.tar(f"a{i}.tar", 4 * i)
    return made


def test_a_renamed_shard_is_neither_lost_nor_doubled(job: Job) -> None:
    job.run()
    (job.source / "a1.tar").rename(job.source / "b1.tar")
    with pytest.raises(UserError, match=r"the input of 1 shard \(a1\) is gone: --prune removes .* --keep-finished"):
        job.run()
    assert job.keys() == keys(range(12))
    manifest = job.run(prune=True)
    assert (job.done, job.keys()) == (["b1"], keys(range(12)))
    assert (manifest.counts.images, manifest.shards.finished, manifest.shards.total) == (12, 3, 3)
    assert manifest.gone == ()
    assert job.notes == ["removed 1 shards and 0 files that have no input"]


def test_what_is_gone_stays_named_until_it_is_pruned(job: Job) -> None:
    job.run()
    (job.source / "a0.tar").unlink()
    kept = job.run(on_change="keep")
    assert (kept.gone, kept.complete, job.keys()) == (("a0",), True, keys(range(12)))
    assert (kept.shards.finished, kept.shards.total, kept.counts.images) == (2, 2, 12)
    pruned = job.run(prune=True)
    assert (pruned.gone, job.done, job.keys()) == ((), [], keys(range(4, 12)))
    left = [path.relative_to(job.out).as_posix() for path in job.out.rglob("*") if "a0" in path.name]
    assert left == []
    assert not any("a0" in file for file in pruned.files)


def test_a_shard_more_is_done_and_the_others_stay(job: Job) -> None:
    job.run()
    job.tar("a0b.tar", 50)
    job.run()
    assert (job.done, job.keys()) == (["a0b"], keys(range(12), range(50, 54)))


def test_a_changed_shard_is_asked_about(job: Job) -> None:
    job.run()
    job.tar("a1.tar", 70, 2)
    with pytest.raises(UserError, match=r"input of 1 shard \(a1\) changed since: --redo-changed .* --keep-finished"):
        job.run()
    kept = job.run(on_change="keep")
    assert (kept.changed, job.done, job.keys()) == (("a1",), [], keys(range(12)))
    redone = job.run(on_change="redo")
    assert (redone.changed, job.done) == ((), ["a1"])
    assert job.keys() == keys(range(4), range(8, 12), range(70, 72))


def test_a_sample_that_moved_to_another_shard_is_there_once(job: Job) -> None:
    job.run()
    job.tar("a0.tar", 4)  # the samples of a1, which is gone
    (job.source / "a1.tar").unlink()
    manifest = job.run(on_change="redo", prune=True)
    assert job.keys() == keys(range(4, 12))
    assert manifest.counts.in_quarantine == 0


@pytest.mark.parametrize("stop", [3, 4, 9])
def test_a_limit_leaves_no_half_shard_behind(job: Job, stop: int) -> None:
    limited = job.run(changes={"limit": stop})
    assert limited.complete
    assert job.keys() == keys(range(stop))
    assert job.run(changes={"limit": stop}) == limited
    assert job.done == []
    more = job.run(changes={"limit": stop + 1})
    assert (more.counts.read, job.keys()) == (stop + 1, keys(range(stop + 1)))
    whole = job.run()
    assert (whole.complete, job.keys()) == (True, keys(range(12)))
    assert not any(ShardRecord.from_json(f.read_bytes(), "").cut for f in (job.out / "shards").glob("*.json"))


def test_keeping_what_is_finished_keeps_no_half_shard(job: Job) -> None:
    job.run(changes={"limit": 5})
    assert job.run(on_change="keep").counts.read == 12
    assert job.keys() == keys(range(12))
    assert job.notes == [f"1 shard (a1) done again: {AGAIN}"]


@pytest.mark.parametrize("harm", ["empty", "missing", "longer"])
def test_outputs_are_checked_by_size(job: Job, harm: str) -> None:
    job.run()
    before = builders.tree(job.out, "data")
    (path, *_) = [p for p in sorted((job.out / "data").rglob("*")) if p.is_file()]
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "empty" else path.read_bytes() + b"\0")
    job.run()
    assert job.done == ["a0"]
    assert builders.tree(job.out, "data") == before


def test_outputs_are_checked_by_hash_where_that_is_asked_for(job: Job) -> None:
    job.run()
    before = builders.tree(job.out, "data")
    (path, *_) = [p for p in sorted((job.out / "data").rglob("*")) if p.is_file()]
    harmed = bytearray(path.read_bytes())
    harmed[len(harmed) // 2] ^= 1
    path.write_bytes(harmed)
    job.run()
    assert job.done == []
    job.run(verify=True)
    assert job.done == ["a0"]
    assert builders.tree(job.out, "data") == before


def test_a_shard_that_has_another_name_meets_no_file_of_the_old_one(tmp_path: Path) -> None:
    made = Job(tmp_path, **{"output.format": "folder"})
    made.tar("a.tar", 0)
    made.tar("b.tar", 4)
    made.run()
    (made.source / "b.tar").rename(made.source / "z.tar")
    kept = made.run(on_change="keep")
    assert (kept.counts.written, kept.counts.quarantined) == (12, 0)
    pruned = made.run(prune=True)
    assert (pruned.counts.written, pruned.counts.quarantined, made.keys()) == (8, 0, keys(range(8)))


@pytest.mark.parametrize("place", [".parts/lock", "events.jsonl", "shards/a.json", "job.json"])
def test_a_pipe_in_a_prepared_folder_is_refused(tmp_path: Path, place: str) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.run()
    (made.out / place).unlink()
    os.mkfifo(made.out / place)
    with pytest.raises(UserError, match=r"is a link, a pipe or a file|is no record"):
        made.run()


def test_a_record_of_any_size_is_refused(tmp_path: Path) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.run()
    with open(made.out / "shards" / "a.json", "r+b") as file:
        file.truncate(4 << 30)
    with pytest.raises(UserError, match=r"a\.json is no record: a file of at most 67108864 bytes"):
        made.run()


def test_a_folder_that_only_looks_begun_is_left_alone(tmp_path: Path) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    (made.out / ".parts" / "mine").mkdir(parents=True)
    (made.out / ".parts" / "mine" / "precious").write_text("alive")
    with pytest.raises(UserError, match="not empty and holds no doppel job"):
        made.run()
    assert (made.out / ".parts" / "mine" / "precious").read_text() == "alive"


def test_a_damaged_shard_is_tried_again(tmp_path: Path) -> None:
    made = Job(tmp_path)
    whole = made.tar("a.tar", 0).read_bytes()
    (made.source / "a.tar").write_bytes(whole[:2000])
    assert made.run().counts.damaged == 1
    assert made.run().counts.damaged == 1
    assert made.done == ["a"]
    made.run(changes={"on_damage": "keep"})
    assert made.done == []
    (made.source / "a.tar").write_bytes(whole)
    mended = made.run()
    assert (mended.counts.damaged, made.keys()) == (0, keys(range(4)))


def test_stray_files_are_named_and_pruned(job: Job) -> None:
    job.run()
    (job.out / "data" / "old.tar").write_bytes(b"of another input")
    with pytest.raises(UserError, match=r"no finished shard has written 1 file \(data/old\.tar\): --prune removes"):
        job.run()
    job.run(prune=True)
    assert job.keys() == keys(range(12))
    assert not (job.out / "data" / "old.tar").exists()


def test_overwrite_leaves_nothing_of_the_old_input(job: Job) -> None:
    job.run()
    for record in (job.out / "shards").iterdir():
        record.unlink()  # so that nothing names the old outputs
    for path in job.source.iterdir():
        path.unlink()
    job.tar("c.tar", 90, 3)
    job.run(on_change="overwrite")
    assert job.keys() == keys(range(90, 93))


NAMES = [
    "quarantine.tar",
    "lock.tar",
    "job.tar",
    "manifest.tar",
    "...tar",
    "..tar",
    "%2E.tar",
    "a b.tar",
    "x" * 240 + ".tar",
    "CON.tar",
    "a\nb.tar",
]


@pytest.mark.parametrize(
    ("format", "name"),
    [*(("folder", name) for name in NAMES), ("webdataset", "...tar"), ("parquet", "x" * 240 + ".tar")],
)
def test_no_name_of_a_shard_leads_out_of_the_job(tmp_path: Path, format: str, name: str) -> None:
    made = Job(tmp_path, **{"output.format": format})
    made.tar("good.tar", 0)
    made.tar(name, 4)
    (tmp_path / "canary").write_text("alive")
    for _ in range(2):
        assert made.run(verify=True).counts.images == 8
    assert made.keys() == keys(range(8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["canary", "in", "out"]
    assert {p.name for p in made.out.iterdir()} <= {
        "data", "shards", "provenance", "job.json", "manifest.json", "events.jsonl", "input.json", ".parts",
    }  # fmt: skip


ANY_BYTE_OF_A_NAME = st.characters(
    exclude_characters="/\0", exclude_categories=["Cs"], include_characters=[chr(0xDC80 + b) for b in range(128)]
)
"""What a file system can hand out: no other half of a surrogate pair than the escapes of bytes."""


@given(stem=st.text(ANY_BYTE_OF_A_NAME, min_size=1, max_size=260))
def test_whatever_a_shard_is_called_its_files_lie_in_the_job(
    stem: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "canary").write_text("alive")
    (name,) = shard_names([f"in/{stem}.tar"], ["in/*.tar"])
    ledger = Ledger(root / "out")
    with ledger.open(EMPTY):
        for sub in ("data", "quarantine", "provenance"):
            (root / "out" / sub).mkdir(exist_ok=True)
        files = {file: Stored(sha256="", bytes=0) for file in (f"data/{name}.tar", f"quarantine/{name}.tar")}
        for file in files:
            (root / "out" / file).touch()
        ledger.commit(
            ShardRecord(
                shard=name, fingerprint="", input_hash="", code="", hashes={}, counts=Counts(), files=files, seconds=0
            )
        )
        assert [record.shard for record in ledger.records()] == [name]
        assert set(ledger.files()) == files.keys()
        ledger.forget(name)
        assert ledger.records() == []
        assert list(ledger.files()) == []
    assert sorted(path.name for path in root.iterdir()) == ["canary", "out"]


@pytest.mark.parametrize("path", ["../victim", "/etc/hostname", "data/../../victim", "quarantine/../../victim"])
@pytest.mark.parametrize("how", [{"on_change": "overwrite"}, {"prune": True}, {}])
def test_a_prepared_record_removes_nothing_outside(tmp_path: Path, path: str, how: dict[str, Any]) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.run()
    (tmp_path / "victim").write_text("alive")
    file = made.out / "shards" / "a.json"
    record = json.loads(file.read_text())
    record["files"] = {path: {"sha256": "", "bytes": 0}}
    file.write_text(json.dumps(record))
    if how.get("on_change") == "overwrite":
        made.run(**how)
    else:
        with pytest.raises(UserError, match=r"shards/a\.json: files.*is no file of a job"):
            made.run(**how)
    assert (tmp_path / "victim").read_text() == "alive"


@pytest.mark.parametrize("line", ["../../victim", "/etc/hostname", "a/../../../victim"])
@pytest.mark.parametrize("field", ["file", "sidecars"])
def test_a_prepared_list_removes_nothing_outside(tmp_path: Path, line: str, field: str) -> None:
    made = Job(tmp_path, **{"output.format": "folder"})
    made.tar("a.tar", 0)
    made.run()
    (tmp_path / "victim").write_text("alive")
    (made.out / "shards" / "a.json").unlink()
    listed = {"version": 1, "file": "x.png", "sidecars": [], "provenance": None}
    listed[field] = line if field == "file" else [line]
    (made.out / "provenance" / "a.provenance.jsonl").write_text(json.dumps(listed) + "\n")
    with pytest.raises(UserError, match=r"a\.provenance\.jsonl: .*is no file of a job"):
        made.run()
    assert made.run(on_change="overwrite").complete
    assert (tmp_path / "victim").read_text() == "alive"


@pytest.mark.parametrize("folder", ["data", "shards", "quarantine", "provenance"])
@pytest.mark.parametrize("on_change", ["refuse", "overwrite"])
def test_a_linked_folder_is_refused(tmp_path: Path, folder: str, on_change: str) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.run()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a.tar").write_text("alive")
    place = made.out / folder
    if place.exists():
        place.rename(tmp_path / "moved")
    place.symlink_to(victim)
    with pytest.raises(UserError, match=f"{folder} is a link, a pipe or a file; a job's folder"):
        made.run(on_change=on_change)
    assert (victim / "a.tar").read_text() == "alive"


def test_nothing_is_removed_behind_a_link_inside_data(tmp_path: Path) -> None:
    made = Job(tmp_path, **{"output.format": "folder"})
    builders.tar(made.source / "a.tar", [("d/k.png", builders.picture(0))])
    made.run()
    victim = tmp_path / "victim"
    (made.out / "data" / "a" / "d").rename(victim)
    (made.out / "data" / "a" / "d").symlink_to(victim)
    (made.out / "shards" / "a.json").unlink()
    with pytest.raises(UserError, match="lies outside of the job's folder, behind a link"):
        made.run()
    assert (victim / "k.png").exists()


@pytest.mark.parametrize("left", [(), (".parts/lock",), (".parts/lock", ".parts/job/job.json"), (".parts/data/x.tar",)])
def test_a_crash_before_the_job_has_a_record_is_no_obstacle(tmp_path: Path, left: tuple[str, ...]) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    (made.out / ".parts").mkdir(parents=True)
    for path in left:
        (made.out / path).parent.mkdir(exist_ok=True)
        (made.out / path).write_text("")
    assert made.run().complete
    assert [p.name for p in (made.out / ".parts").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("source", "out"),
    [("*.tar", "."), ("**/*.tar", "out"), ("*/*.tar", "."), ("a/*.tar", "a"), ("a/*.tar", "a/.."), ("*/*/*.tar", ".")],
)
def test_input_and_output_lie_apart(tmp_path: Path, source: str, out: str) -> None:
    builders.shard(tmp_path / "a" / "0.tar", 2)
    builders.shard(tmp_path / "a" / "b" / "0.tar", 2)
    builders.shard(tmp_path / "0.tar", 2)
    content = builders.recipe(tmp_path / source, tmp_path / out, None)
    before = builders.tree(tmp_path, ".")
    with pytest.raises(UserError, match="a folder apart from the input"):
        run_job(make_plan(validate(JobConfig, content, "test")))
    assert builders.tree(tmp_path, ".") == before


@pytest.mark.parametrize("out", ["out", "a/out", "a/b/out"])
def test_output_beside_the_input_is_fine(tmp_path: Path, out: str) -> None:
    builders.shard(tmp_path / "a" / "0.tar", 2)
    content = builders.recipe(tmp_path / "a" / "*.tar", tmp_path / out, None)
    for _ in range(2):
        assert run_job(make_plan(validate(JobConfig, content, "test"))).complete


def test_an_output_that_is_linked_into_the_input_is_refused(tmp_path: Path) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.run()
    (made.source / "b.tar").symlink_to(made.out / "data" / "a.tar")
    with pytest.raises(UserError, match="a folder apart from the input"):
        made.run()
    with pytest.raises(UserError, match="a folder apart from the input"):
        made.run(on_change="overwrite")
    assert (made.out / "data" / "a.tar").exists()


@pytest.mark.parametrize(
    "urls", [["a.tar", "a.tar"], ["*.tar", "a.tar"], ["a.tar", "../in/a.tar"], ["a.tar", "link.tar"]]
)
def test_a_shard_that_is_named_twice_is_refused(tmp_path: Path, urls: list[str]) -> None:
    made = Job(tmp_path)
    (tmp_path / "link.tar").symlink_to(made.tar("a.tar", 0))
    (tmp_path / "link.tar").rename(made.source / "link.tar")
    with pytest.raises(UserError, match=r"(a|link)\.tar' is there twice"):
        made.run(changes={"input.urls": [str(made.source / url) for url in urls]})


@pytest.mark.parametrize("place", ["events.jsonl", ".parts/lock", "batch_size.json", "faces", "manifest.json"])
@pytest.mark.parametrize("begun", [True, False])
def test_links_in_a_prepared_folder_are_refused(tmp_path: Path, place: str, begun: bool) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    if begun:
        made.run()
    (tmp_path / "victim").write_text("alive")
    (made.out / place).parent.mkdir(parents=True, exist_ok=True)
    (made.out / place).unlink(missing_ok=True)
    (made.out / place).symlink_to(tmp_path / "victim")
    for how in ("refuse", "overwrite"):
        with pytest.raises(UserError, match=r"is a link, a pipe or a file|holds no doppel job"):
            made.run(on_change=how)
    assert (tmp_path / "victim").read_text() == "alive"


def test_a_file_that_two_records_name_is_refused(tmp_path: Path) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.tar("b.tar", 4)
    made.run()
    file = made.out / "shards" / "a.json"
    record = json.loads(file.read_text())
    record["files"]["data/b.tar"] = {"sha256": "", "bytes": 0}
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"the records of a and b both name data/b\.tar"):
        made.run(on_change="redo")


@pytest.mark.parametrize("how", [{}, {"on_change": "redo"}])
def test_a_smaller_limit_takes_nothing_away(job: Job, how: dict[str, Any]) -> None:
    job.run()
    if how:
        job.tar("a2.tar", 70)
    else:
        for path in [p for p in (job.out / "data").rglob("*") if p.is_file()][-1:]:
            path.write_bytes(b"")
    assert job.run(changes={"limit": 3}, **how).counts.read == 12
    assert len(job.keys()) == 12


def test_a_limit_counts_what_is_in_the_input(job: Job) -> None:
    job.run(changes={"limit": 4})
    (job.source / "a0.tar").unlink()
    manifest = job.run(changes={"limit": 4}, prune=True)
    assert (manifest.complete, job.keys()) == (True, keys(range(4, 8)))


def test_pruning_under_a_limit_that_is_reached(job: Job) -> None:
    job.run(changes={"limit": 8})
    (job.source / "a1.tar").unlink()
    manifest = job.run(changes={"limit": 4}, prune=True)
    assert (manifest.complete, job.done, job.keys()) == (True, [], keys(range(4)))


@pytest.mark.parametrize("format", FORMATS)
def test_a_class_more_changes_every_shard(tmp_path: Path, format: str) -> None:
    for name in ("bird", "cat"):
        for i in range(3):
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name / f"{i}.png").write_bytes(builders.picture(i))
    content = builders.recipe("", tmp_path / "out", None, **{"output.format": format})
    content["input"] = {"format": "folder", "path": str(tmp_path / "in"), "shard_size": 3}

    def run(how: str) -> Manifest:
        return run_job(make_plan(validate(JobConfig, content, "test")), on_change=how)  # type: ignore[arg-type]

    finished = run("refuse").shards.finished
    assert finished > 1
    (tmp_path / "in" / "ant").mkdir()
    (tmp_path / "in" / "ant" / "0.png").write_bytes(builders.picture(9))
    with pytest.raises(UserError, match=f"the input of {finished} shards .* changed since"):
        run("refuse")
    assert run("redo").counts.written == 7
    if format == "webdataset":
        found = dict[str, set[bytes]]()
        for path in (tmp_path / "out" / "data").iterdir():
            for name, held in builders.members_of(path).items():
                if name.endswith(".cls"):
                    found.setdefault(name.split("/")[0], set()).add(held)
        assert found == {"ant": {b"0"}, "bird": {b"1"}, "cat": {b"2"}}


def test_output_inside_an_image_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(builders.picture(0))
    content = builders.recipe("", tmp_path / "set" / "out", None)
    content["input"] = {"format": "folder", "path": str(tmp_path / "set")}
    with pytest.raises(UserError, match="a folder apart from the input"):
        run_job(make_plan(validate(JobConfig, content, "test")))


def test_the_command_names_what_is_gone_and_fails_where_a_shard_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    whole = made.tar("b.tar", 4).read_bytes()
    recipe = tmp_path / "recipe.yaml"
    content = builders.recipe(made.source / "*.tar", made.out, None)
    recipe.write_text(json.dumps(content))
    assert main(["run", str(recipe)]) == 0
    (made.source / "a.tar").unlink()
    assert main(["run", str(recipe)]) == 2
    assert "is gone: --prune removes" in capsys.readouterr().err
    assert main(["run", str(recipe), "--keep-finished"]) == 0
    assert "kept shards whose input is gone: a, 1 in all" in capsys.readouterr().err
    assert main(["run", str(recipe), "--prune"]) == 0
    (made.source / "b.tar").write_bytes(whole[:2000])
    assert main(["run", str(recipe)]) == 2
    assert main(["run", str(recipe), "--redo-changed"]) == 1
    assert main(["run", str(recipe)]) == 1
    assert "input shards are damaged in 1 place" in capsys.readouterr().err
    assert main(["run", str(recipe), "--set", "on_damage=keep"]) == 0


def test_rejected_samples_leave_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarantine is written while its shard is read: when the last sample comes, the first is on the disk."""
    from pipeline.streams.quarantine import QuarantineWriter

    members = [(f"{i:04d}.png", b"no image" + bytes(10_000)) for i in range(300)]
    made = Job(tmp_path, **{"run.memory": 1 << 20})
    builders.tar(made.source / "a.tar", members)
    sizes = list[int]()
    add = QuarantineWriter.add

    def watched(self: QuarantineWriter, bad: Any) -> None:
        add(self, bad)
        part = made.out / ".parts" / "quarantine" / "a.tar"
        sizes.append(part.stat().st_size)

    monkeypatch.setattr(QuarantineWriter, "add", watched)
    assert made.run().counts.undecodable == 300
    assert sizes[150] > 100 * 10_000
    assert sizes == sorted(sizes)
    assert not (made.out / ".parts" / "quarantine").exists()
    assert (made.out / "quarantine").stat().st_mode & 0o777 == 0o700
    assert (made.out / "quarantine" / "a.tar").stat().st_mode & 0o777 == 0o600


def test_a_tar_of_a_job_can_be_read_by_others(tmp_path: Path) -> None:
    made = Job(tmp_path)
    made.tar("a.tar", 0)
    made.run()
    with tarfile.open(fileobj=io.BytesIO((made.out / "data" / "a.tar").read_bytes())) as tar:
        assert len(tar.getnames()) == 8
