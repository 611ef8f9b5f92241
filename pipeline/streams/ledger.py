"""The ledger of a job: which shards are done, and what they were made of.

`shards/NAME.json` exists ⇔ shard NAME is complete.

    OUT/job.json            what the job is: configuration and hashes (no salt)
    OUT/data/               the output shards, nothing else
    OUT/shards/NAME.json    written last: counts, hashes, files, timings of one shard
    OUT/quarantine/NAME.tar original bytes, reason and origin of each sample that was not written
    OUT/input.json          how many shards the input is
    OUT/claims/NAME.json    who works at a shard, where several runs share the job
    OUT/manifest.json       totals over all finished shards
    OUT/records.jsonl.gz    all records in one file, in an object store only; see `record_index`
    OUT/events.jsonl        what happened when; in an object store events/*.jsonl, a piece for each minute of a run
    OUT/.parts/             work in progress, invisible to readers of data/; none in an object store
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.media.versioned import Versioned
from pipeline.streams.claims import CLAIMS
from pipeline.streams.event_log import EVENTS, EventLog
from pipeline.streams.files import sync_folder
from pipeline.streams.job_records import FOLDERS, Counts, Finished, FolderLine, Job, JobInput, Manifest, ShardRecord
from pipeline.streams.ownership import Hold, alone
from pipeline.streams.places import PARTS, open_store
from pipeline.streams.reasons import tally
from pipeline.streams.record_index import INDEX, RecordIndex
from pipeline.streams.store import LOCK

JOB, SHARDS = "job.json", "shards"
"""The record of the job, and the folder of records."""
WORK = ("job", "records", "data", "quarantine")
"""What work in progress is sorted by, or was by an earlier version."""
PUT = re.compile("[0-9a-f]{32}|run-[0-9a-f]{16}")
"""The name of a small file while it is put, and of the folder of a run that shares the job."""
LARGEST_RECORD = 1 << 26
"""Bytes of the record of a shard, at most."""
MANIFEST, INPUT = "manifest.json", "input.json"
"""File names of the manifest, and of what is known of the input."""
ADVICE = "--keep-finished leaves finished shards as they are, --overwrite starts anew"
"""The options that decide what becomes of finished shards."""
NO_INPUT = ("limit",)
"""Keys of a recipe that change neither the input nor the bytes that are made of it."""


class Ledger:
    """The records in the folder of a job, on a disk or in an object store."""

    def __init__(self, place: str | os.PathLike[str], work: str = "") -> None:
        """With `work`, other runs may be at work at the place; it is the name of this run's folder for its own.

        Raises `UserError` for a URL whose protocol is unknown, or whose package is missing.
        """
        self.store, self.shared = open_store(place, work), bool(work)
        self._events = EventLog(self.store)
        self._index = RecordIndex(self.store, SHARDS, self._record, self._parse)

    @property
    def shown(self) -> str:
        """The folder, as messages name it."""
        return self.store.shown

    @property
    def parts(self) -> Path:
        """The folder of this machine for work in progress."""
        return self.store.parts

    @contextmanager
    def open(self, job: Job, *, keep: bool = False, overwrite: bool = False, hold: Hold = alone) -> Iterator[Ledger]:
        """Claims the folder for `job` and holds it against other processes.

        With `keep`, finished shards of a job with other settings stay; with `overwrite`, everything in the folders of
        the job is removed. Raises `UserError` where the folder is not ours, is in use, belongs to a job with other
        settings, or was made by another version of doppel.
        """
        local = self.store.local
        if local is not None and local.exists() and not local.is_dir():
            raise UserError(f"output.path: {local} is a file; a folder is expected")
        if not (self._is_ours() or self._only_begun() or self._is_ours()):  # others may just begin as well
            raise UserError(f"output.path: {self.shown} is not empty and holds no doppel job; name an empty folder")
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
            refuse_links(local)
        with hold(self.store) as nobody_else:
            self._claim(job, keep=keep, overwrite=overwrite, sweep=nobody_else)
            try:
                yield self
            finally:
                if local is not None and nobody_else:
                    self.store.sweep()
                with suppress(UserError, OSError):  # what is lost is no part of the job
                    self._events.flush()

    def job(self) -> Job | None:
        """The job that the folder was claimed for; None where there is none.

        Raises `UserError` for what another version of doppel left.
        """
        content = self.store.read(JOB)
        if content is None:
            return None
        try:
            return Job.from_json(content, self._at(JOB))
        except UserError as error:
            raise UserError(f"{error}: name another folder, or remove this one") from None

    def record(self, name: str) -> ShardRecord | None:
        """The record of a shard; None where it is not finished."""
        return self._record(f"{SHARDS}/{name}.json")

    def records(self) -> list[ShardRecord]:
        """The records of all finished shards, by name. Raises `UserError` for one that cannot be read."""
        records = self._index.records()
        owners = dict[str, str]()
        for record in records:
            for file in record.files:
                if owners.setdefault(file, record.shard) != record.shard:
                    raise UserError(
                        f"{self._at(SHARDS)}: the records of {owners[file]} and {record.shard} both name {file}; "
                        "without these files both shards are done again"
                    )
        return records

    def commit(self, record: ShardRecord) -> None:
        """Marks a shard as done; its files must be in place. Where others are at work, the first record stays."""
        if self.shared:
            self.store.put_if_absent(f"{SHARDS}/{record.shard}.json", _content(record))
            return
        self._write(f"{SHARDS}/{record.shard}.json", record)

    def files(self) -> dict[str, int]:
        """The bytes of each file that shards have written, or left, by their paths below the job's folder.

        They are −1 for a link, and for whatever else is no file.
        """
        return {entry.path: entry.bytes for name in FOLDERS for entry in self.store.list(name)}

    def leftovers(self, name: str, there: Container[str]) -> set[str]:
        """Files that an unfinished shard has left, among those that are `there`, by their paths below the job's folder.

        Raises `UserError` for a list of them that is not one of ours.
        """
        names = {*_files_of(name), _list_of(name)}
        if _list_of(name) in there:
            names |= self._listed(name)
        return {file for file in names if file in there}

    def _listed(self, name: str) -> set[str]:
        """What the list of a shard in folder output names."""
        names, where = set[str](), self._at(_list_of(name))
        for line in (self.store.read(_list_of(name)) or b"").decode().splitlines():
            made = FolderLine.from_json(line, where)
            names |= {f"data/{path}" for path in (made.file, *made.sidecars)}
        return names

    def reopen(self, name: str) -> None:
        """Takes back that a shard is done, before its files are replaced, so that a crash meanwhile is seen.

        Its quarantine goes: there may be none any more.
        """
        self.store.delete(f"{SHARDS}/{name}.json")
        if self.store.local is not None:
            sync_folder(self.store.local / SHARDS)
        self.store.delete(f"quarantine/{name}.tar")

    def tidy(self, name: str, files: Container[str]) -> None:
        """Removes what an earlier attempt at a shard has left beside its `files`."""
        for file in self.store.held(file for file in _files_of(name) if file not in files):
            self.store.delete(file)

    def retract(self, name: str) -> None:
        """Takes back that a shard is done."""
        self.store.delete(f"{SHARDS}/{name}.json")

    def forget(self, name: str) -> None:
        """Removes the record of a shard, if there is one, and then whatever the shard has written or left.

        Where others are at work, all stays until it is replaced: they may just have put it.
        """
        if self.shared:
            return
        record = self.record(name)
        files = {*_files_of(name), *self._listed(name)}
        files |= set(record.files if record else ()) - {_list_of(name)}
        self.store.delete(f"{SHARDS}/{name}.json")
        for file in (*sorted(files), _list_of(name)):  # the list last: it tells what is left
            self.store.delete(file)

    def manifest(self) -> Manifest | None:
        """The manifest as it was last written; None where there is none."""
        content = self.store.read(MANIFEST)
        return None if content is None else Manifest.from_json(content, self._at(MANIFEST))

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
        self._write(MANIFEST, manifest)
        if self.shared and not manifest.complete and sum(1 for _ in self.store.list(SHARDS)) > len(records):
            # others have done more meanwhile
            return self.write_manifest(job, shards, limit=limit, changed=changed, aside=aside)
        self._index.save()
        return manifest

    def input(self) -> JobInput | None:
        """What the input was when a run last began; None where none has told."""
        content = self.store.read(INPUT)
        return None if content is None else JobInput.from_json(content, self._at(INPUT))

    def note_input(self, shards: int) -> None:
        """Notes of how many shards the input is."""
        self._write(INPUT, JobInput(shards=shards))

    def log(self, event: str, **facts: Any) -> None:
        """Adds one line to the event log."""
        self._events.add(event, facts)

    def parts_of(self, what: Literal["data"]) -> Path:
        """The folder of work in progress of one kind, so that no name of a shard meets another file there."""
        (self.parts / what).mkdir(parents=True, exist_ok=True)
        return self.parts / what

    def _at(self, path: str) -> str:
        return f"{self.shown}/{path}"

    def _is_ours(self) -> bool:
        return bool(self.store.held([JOB]))

    def _only_begun(self) -> bool:
        """Whether the folder holds nothing but what a job that was stopped before its first record leaves."""
        if (local := self.store.local) is None:
            return all(name.startswith(".") or name == CLAIMS for name in self.store.top())
        begun = {path.name for path in self.parts.iterdir()} if self.parts.is_dir() else set()
        parts = {name for name in begun if PUT.fullmatch(name)}
        return (
            self.store.top() <= {PARTS, CLAIMS} and begun - parts <= {LOCK, *WORK} and not (local / PARTS).is_symlink()
        )

    def _claim(self, job: Job, *, keep: bool, overwrite: bool, sweep: bool) -> None:
        before = self.job()
        if before is not None and overwrite:
            self._clear()
        elif before is not None and not keep and (changed := differences(before, job)):
            raise UserError(f"{self.shown} holds a job that differs in {'; '.join(changed)}: {ADVICE}")
        if sweep:
            self.store.sweep()
            self._write(JOB, job)
        elif before is None and not self.store.put_if_absent(JOB, _content(job)):
            self._claim(job, keep=keep, overwrite=overwrite, sweep=sweep)  # somebody was faster
            return
        if (local := self.store.local) is not None:
            for folder in ("data", SHARDS):
                (local / folder).mkdir(exist_ok=True)

    def _clear(self) -> None:
        """Removes what lies in the folders of the job, records first: a crash leaves nothing marked as done."""
        for name in (SHARDS, *FOLDERS, EVENTS):
            self.store.clear(name)
        for file in (MANIFEST, INDEX, "batch_size.json", f"{EVENTS}.jsonl"):
            self.store.delete(file)

    def _write(self, path: str, record: Versioned) -> None:
        """Complete or not at all, and safe when it returns."""
        self.store.put(path, _content(record))

    def _record(self, path: str) -> ShardRecord | None:
        where = self._at(path)
        if (local := self.store.local) is not None and os.path.lexists(local / path):
            found = (local / path).lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_RECORD:
                raise UserError(f"{where} is no record: a file of at most {LARGEST_RECORD} bytes is expected")
        content = self.store.read(path)
        return None if content is None else self._parse(path, content)

    def _parse(self, path: str, content: bytes) -> ShardRecord:
        where = self._at(path)
        try:
            record = ShardRecord.from_json(content, where)
        except UserError as error:
            raise UserError(f"{error}; without this file the shard is done again") from None
        if f"{SHARDS}/{record.shard}.json" != path:
            raise UserError(
                f"{where} is the record of shard {record.shard!r}; without this file the shard is done again"
            )
        return record


def _list_of(name: str) -> str:
    """The list of what a shard has written in folder output."""
    return f"provenance/{name}.provenance.jsonl"


def _content(record: Versioned) -> bytes:
    return f"{record.to_json(indent=1)}\n".encode()


def _files_of(name: str) -> tuple[str, ...]:
    """Files that a shard may have written, or left, except in folder output."""
    return f"data/{name}.tar", f"data/{name}.parquet", f"quarantine/{name}.tar"


def refuse_links(root: Path) -> None:
    """Raises `UserError` for what would lead a job's own reading, writing and removing to another place."""
    folders = {PARTS, SHARDS, *FOLDERS}
    for path in (*root.iterdir(), root / PARTS / LOCK):
        mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
        if not (stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and path.name not in folders)):
            raise UserError(
                f"output.path: {path} is a link, a pipe or a file; a job's folder holds its own things only"
            )


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
