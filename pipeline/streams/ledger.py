"""The ledger of a job: which shards are done, and what they were made of.

`shards/NAME.json` exists ⇔ shard NAME is complete.

    OUT/job.json            what the job is: configuration and hashes (no salt)
    OUT/data/               the output shards, nothing else
    OUT/shards/NAME.json    written last: counts, hashes, files, timings of one shard
    OUT/quarantine/NAME.tar original bytes, reason and origin of each sample that was not written
    OUT/manifest.json       totals over all finished shards
    OUT/events.jsonl        what happened when
    OUT/.parts/             work in progress, invisible to readers of data/
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.media.versioned import Versioned
from pipeline.posix import lock
from pipeline.streams.files import sync_folder
from pipeline.streams.job_records import FOLDERS, Counts, Finished, FolderLine, Job, Manifest, ShardRecord
from pipeline.streams.reasons import tally

SHARDS, PARTS = "shards", ".parts"
"""The folders of records, and of work in progress."""
WORK = ("job", "records", "data", "quarantine")
"""What work in progress is sorted by."""
LARGEST_RECORD = 1 << 26
"""Bytes of the record of a shard, at most."""
MANIFEST = "manifest.json"
"""File name of the manifest."""
ADVICE = "--keep-finished leaves finished shards as they are, --overwrite starts anew"
"""The options that decide what becomes of finished shards."""
NO_INPUT = ("limit",)
"""Keys of a recipe that change neither the input nor the bytes that are made of it."""


class Ledger:
    """The records in the folder of a job."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.parts = root / "data", root / PARTS
        self.shards, self.quarantine = root / SHARDS, root / "quarantine"
        self._events = root / "events.jsonl"

    @contextmanager
    def open(self, job: Job, *, keep: bool = False, overwrite: bool = False) -> Iterator[Ledger]:
        """Claims the folder for `job` and holds it against other processes.

        With `keep`, finished shards of a job with other settings stay; with `overwrite`, everything in the folders of
        the job is removed. Raises `UserError` where the folder is not ours, is in use, belongs to a job with other
        settings, or was made by another version of doppel.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"output.path: {self.root} is a file; a folder is expected")
        if self.root.is_dir() and not self._job_file.exists() and not self._only_begun():
            raise UserError(f"output.path: {self.root} is not empty and holds no doppel job; name an empty folder")
        self.root.mkdir(parents=True, exist_ok=True)
        self._refuse_links()
        self.parts.mkdir(exist_ok=True)
        with os.fdopen(os.open(self.parts / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)) as held:
            if not lock(held):
                raise UserError(f"output.path: another doppel process is writing to {self.root}")
            self._claim(job, keep=keep, overwrite=overwrite)
            try:
                yield self
            finally:
                self._clear_parts()

    def job(self) -> Job | None:
        """The job that the folder was claimed for; None where there is none.

        Raises `UserError` for what another version of doppel left.
        """
        if not self._job_file.exists():
            return None
        try:
            return Job.from_json(self._job_file.read_bytes(), str(self._job_file))
        except UserError as error:
            raise UserError(f"{error}: name another folder, or remove this one") from None

    def record(self, name: str) -> ShardRecord | None:
        """The record of a shard; None where it is not finished."""
        file = self.shards / f"{name}.json"
        return _read_record(file) if file.exists() else None

    def records(self) -> list[ShardRecord]:
        """The records of all finished shards, by name. Raises `UserError` for one that cannot be read."""
        records = [_read_record(file) for file in sorted(self.shards.glob("[!.]*.json"))]
        owners = dict[str, str]()
        for record in records:
            for file in record.files:
                if owners.setdefault(file, record.shard) != record.shard:
                    raise UserError(
                        f"{self.shards}: the records of {owners[file]} and {record.shard} both name {file}; without "
                        "these files both shards are done again"
                    )
        return records

    def commit(self, record: ShardRecord) -> None:
        """Marks a shard as done; its files must be in place."""
        self._write(self.shards / f"{record.shard}.json", record)

    def files(self) -> Iterator[str]:
        """Yields the files that shards have written, or left, by their paths below the job's folder."""
        for name in FOLDERS:
            for folder, _, files in os.walk(self.root / name):
                inside = Path(folder).relative_to(self.root).as_posix()
                yield from sorted(f"{inside}/{file}" for file in files if not file.startswith("."))

    def leftovers(self, name: str) -> set[str]:
        """Files that an unfinished shard may have left, by their paths below the job's folder.

        Raises `UserError` for a list of them that is not one of ours.
        """
        listed = f"provenance/{name}.provenance.jsonl"
        names = {f"data/{name}.tar", f"data/{name}.parquet", f"quarantine/{name}.tar", listed}
        if (self.root / listed).is_file():
            for line in (self.root / listed).read_text().splitlines():
                made = FolderLine.from_json(line, str(self.root / listed))
                names |= {f"data/{path}" for path in (made.file, *made.sidecars)}
        return names

    def reopen(self, name: str) -> None:
        """Takes back that a shard is done, before its files are replaced, so that a crash meanwhile is seen.

        Its quarantine goes: there may be none any more.
        """
        (self.shards / f"{name}.json").unlink(missing_ok=True)
        sync_folder(self.shards)
        self.remove(f"quarantine/{name}.tar")

    def forget(self, name: str) -> None:
        """Removes the record of a shard, if there is one, and then whatever the shard has written or left."""
        record = self.record(name)
        files = self.leftovers(name) | set(record.files if record else ())
        (self.shards / f"{name}.json").unlink(missing_ok=True)
        listed = f"provenance/{name}.provenance.jsonl"
        for file in sorted(files, key=lambda file: file == listed):  # the list last: it tells what is left
            self.remove(file)

    def remove(self, file: str) -> None:
        """Removes a file of the job, if it is there, and the folders of data/ that are empty then."""
        path = self.root / file
        if not real(path.parent).is_relative_to(real(self.root)):
            raise UserError(f"{path} lies outside of the job's folder, behind a link; nothing there is removed")
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if not folder.exists():  # a crash came before it was made
                continue
            if folder.parent == self.root or not folder.is_relative_to(self.root) or any(folder.iterdir()):
                break
            folder.rmdir()

    def manifest(self) -> Manifest | None:
        """The manifest as it was last written; None where there is none."""
        file = self.root / MANIFEST
        return Manifest.from_json(file.read_bytes(), str(file)) if file.exists() else None

    def write_manifest(
        self, job: Job, shards: Sequence[str], *, limit: int | None = None, changed: Sequence[str] = (),
        aside: Mapping[str, str] | None = None,
    ) -> Manifest:  # fmt: skip
        """Writes and returns the totals over all finished shards, which come from their records alone.

        `shards` are the names of all shards of the input, of which a `limit` may need only the first; `changed` are
        those that were kept, although their input has changed; `aside` says why shards are set aside, by name.
        """
        records, known = self.records(), set(shards)
        present = [record for record in records if record.shard in known]
        counts = sum((record.counts for record in records), Counts())
        reached = limit is not None and sum(record.counts.read for record in present) >= limit
        whole = sum(not record.cut for record in present)
        notes = Counter[str]()
        for record in records:
            notes.update(record.notes)
        manifest = Manifest(
            **{name: value for name, value in job if name != "version"},
            complete=(reached or whole == len(shards)) and not aside,
            shards=Finished(finished=len(present), total=len(present) if reached else len(shards)),
            gone=tuple(record.shard for record in records if record.shard not in known),
            changed=tuple(changed),
            aside=dict(aside or {}),
            counts=counts,
            notes=dict(notes),
            reasons=tally(pair for record in records for pair in record.reasons.items()),
            seconds=round(sum(record.seconds for record in records), 3),
            files={file: stored for record in records for file, stored in record.files.items()},
        )
        self._write(self.root / MANIFEST, manifest)
        return manifest

    def log(self, event: str, **facts: Any) -> None:
        """Appends one line to the event log."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        with open(self._events, "a") as file:
            file.write(json.dumps(line) + "\n")

    def parts_of(self, what: Literal["job", "records", "data"]) -> Path:
        """The folder of work in progress of one kind, so that no name of a shard meets another file there."""
        (self.parts / what).mkdir(exist_ok=True)
        return self.parts / what

    @property
    def _job_file(self) -> Path:
        return self.root / "job.json"

    def _only_begun(self) -> bool:
        """Whether the folder holds nothing but what a job that was stopped before its first record leaves."""
        names = {path.name for path in self.root.iterdir()}
        begun = {path.name for path in self.parts.iterdir()} if PARTS in names and self.parts.is_dir() else set()
        return names <= {PARTS} and begun <= {"lock", *WORK}

    def _refuse_links(self) -> None:
        """Raises `UserError` for what would lead the job's own reading, writing and removing to another place."""
        folders = {PARTS, SHARDS, *FOLDERS}
        for path in (*self.root.iterdir(), self.parts / "lock"):
            mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
            if not (stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and path.name not in folders)):
                raise UserError(
                    f"output.path: {path} is a link, a pipe or a file; a job's folder holds its own things only"
                )

    def _claim(self, job: Job, *, keep: bool, overwrite: bool) -> None:
        before = self.job()
        if before is not None and overwrite:
            self._clear()
        elif before is not None and not keep and (changed := differences(before, job)):
            raise UserError(f"{self.root} holds a job that differs in {'; '.join(changed)}: {ADVICE}")
        self._clear_parts()
        self._write(self._job_file, job)
        for folder in (self.data, self.shards):
            folder.mkdir(exist_ok=True)

    def _clear(self) -> None:
        """Removes what lies in the folders of the job, records first: a crash leaves nothing marked as done."""
        for name in (SHARDS, *FOLDERS):
            if (self.root / name).exists():
                shutil.rmtree(self.root / name)
        for file in (self.root / MANIFEST, self.root / "batch_size.json", self._events):
            file.unlink(missing_ok=True)

    def _clear_parts(self) -> None:
        for left in self.parts.iterdir():
            if left.name != "lock":
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def _write(self, file: Path, record: Versioned) -> None:
        """Complete or not at all, and on the disk when it returns."""
        part = self.parts_of("records" if file.parent == self.shards else "job") / file.name
        with open(part, "w") as handle:
            handle.write(record.to_json(indent=1) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, file)
        sync_folder(file.parent)


def _read_record(file: Path) -> ShardRecord:
    mode = file.lstat()
    if not stat.S_ISREG(mode.st_mode) or mode.st_size > LARGEST_RECORD:
        raise UserError(f"{file} is no record: a file of at most {LARGEST_RECORD} bytes is expected")
    try:
        record = ShardRecord.from_json(file.read_bytes(), str(file))
    except UserError as error:
        raise UserError(f"{error}; without this file the shard is done again") from None
    if record.shard != file.name.removesuffix(".json"):
        raise UserError(f"{file} is the record of shard {record.shard!r}; without this file the shard is done again")
    return record


def differences(old: Job, new: Job) -> list[str]:
    """What differs between two jobs, in words: single keys of the configuration, or model, code, salt."""
    flat_old, flat_new = flatten(old.config), flatten(new.config)
    keys = [key for key in {**flat_old, **flat_new} if flat_old.get(key) != flat_new.get(key) and key not in NO_INPUT]
    changed = [f"{key} ({flat_old.get(key)} → {flat_new.get(key)})" for key in keys]
    words = {
        "model": "the model's files",
        "code": "doppel's code",
        "salt": "the salt",
        "gate": "recognisers or certificates",
        "copies": "the copies of each class",
        "level": "the level that was found for a bound",
    }
    return changed + [word for key, word in words.items() if old.hashes.get(key) != new.hashes.get(key)]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Turns `{"a": {"b": 1}}` into `{"a.b": 1}`."""
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in flatten(part, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: value}
