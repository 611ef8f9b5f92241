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

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.media.versioned import Versioned
from pipeline.streams.contract import InputShard
from pipeline.streams.files import sync_folder
from pipeline.streams.job_records import Counts, Finished, Job, Manifest, ShardRecord

OnChange = Literal["refuse", "keep", "overwrite"]
"""What to do with finished shards that were made from something else: refuse to go on, keep them, or overwrite them."""
MANIFEST = "manifest.json"
"""File name of the manifest."""
ADVICE = "--keep-finished leaves finished shards as they are, --overwrite starts anew"
"""The options that decide it."""


class Ledger:
    """The records in the folder of a job."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.parts = root / "data", root / ".parts"
        self.shards, self.quarantine = root / "shards", root / "quarantine"
        self._events = root / "events.jsonl"

    @contextmanager
    def open(self, job: Job, on_change: OnChange) -> Iterator[Ledger]:
        """Claims the folder for `job` and holds it against other processes.

        Raises `UserError` where the folder is not ours, is in use, belongs to a job with other settings, or was made by
        another version of doppel.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"output.path: {self.root} is a file; a folder is expected")
        if self.root.is_dir() and any(self.root.iterdir()) and not self._job_file.exists():
            raise UserError(f"output.path: {self.root} is not empty and holds no doppel job; name an empty folder")
        for folder in (self.data, self.shards, self.parts):
            folder.mkdir(parents=True, exist_ok=True)
        with open(self.parts / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"output.path: another doppel process is writing to {self.root}") from None
            self._claim(job, on_change)
            yield self

    def pending(self, shards: Sequence[InputShard], on_change: OnChange) -> list[InputShard]:
        """The shards that are still to do. Raises `UserError` where the input of a finished shard has changed."""
        todo, changed = [], []
        for shard in shards:
            record = self.record(shard.name)
            if record is None or not all((self.root / file).exists() for file in record.files):
                todo.append(shard)
            elif record.fingerprint != shard.fingerprint() and record.input_hash != shard.content_hash():
                changed.append(shard.name)
        if changed and on_change == "refuse":
            raise UserError(
                f"{self.root}: the input of {len(changed)} finished shards changed ({', '.join(changed[:5])}): {ADVICE}"
            )
        return todo

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
        return ShardRecord.from_json(file.read_bytes(), str(file)) if file.exists() else None

    def records(self) -> list[ShardRecord]:
        """The records of all finished shards, by name."""
        return [ShardRecord.from_json(file.read_bytes(), str(file)) for file in sorted(self.shards.glob("*.json"))]

    def commit(self, record: ShardRecord) -> None:
        """Marks a shard as done; its files must be in place."""
        _write(self.shards / f"{record.shard}.json", record)

    def manifest(self) -> Manifest | None:
        """The manifest as it was last written; None where there is none."""
        file = self.root / MANIFEST
        return Manifest.from_json(file.read_bytes(), str(file)) if file.exists() else None

    def write_manifest(self, job: Job, total_shards: int) -> Manifest:
        """Writes and returns the totals over all finished shards, which come from their records alone."""
        records = self.records()
        manifest = Manifest(
            **dict(job),
            complete=len(records) == total_shards,
            shards=Finished(finished=len(records), total=total_shards),
            counts=sum((record.counts for record in records), Counts()),
            seconds=round(sum(record.seconds for record in records), 3),
            files={file: digest for record in records for file, digest in record.files.items()},
        )
        _write(self.root / MANIFEST, manifest)
        return manifest

    def log(self, event: str, **facts: Any) -> None:
        """Appends one line to the event log."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        with open(self._events, "a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def _job_file(self) -> Path:
        return self.root / "job.json"

    def _claim(self, job: Job, on_change: OnChange) -> None:
        before = self.job()
        if before is not None and on_change == "overwrite":
            self._clear()
        elif before is not None and on_change == "refuse" and (changed := differences(before, job)):
            raise UserError(f"{self.root} holds a job that differs in {'; '.join(changed)}: {ADVICE}")
        for left in self.parts.iterdir():
            if left.name != "lock":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        _write(self._job_file, job)

    def _clear(self) -> None:
        """Removes what finished shards recorded, records first: a crash in between leaves nothing marked as done."""
        records = self.records()
        for record in records:
            (self.shards / f"{record.shard}.json").unlink()
        for record in records:
            for name in record.files:
                (self.root / name).unlink(missing_ok=True)
        listed = (self.root / "provenance").glob("*.provenance.jsonl")
        for file in (self.root / MANIFEST, self.root / "batch_size.json", self._events, *listed):
            file.unlink(missing_ok=True)


def differences(old: Job, new: Job) -> list[str]:
    """What differs between two jobs, in words: single keys of the configuration, or model, code, salt."""
    flat_old, flat_new = flatten(old.config), flatten(new.config)
    keys = [key for key in {**flat_old, **flat_new} if flat_old.get(key) != flat_new.get(key)]
    changed = [f"{key} ({flat_old.get(key)} → {flat_new.get(key)})" for key in keys]
    words = {
        "model": "the model's files",
        "code": "doppel's code",
        "salt": "the salt",
        "gate": "recognisers or certificates",
    }
    return changed + [word for key, word in words.items() if old.hashes.get(key) != new.hashes.get(key)]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Turns `{"a": {"b": 1}}` into `{"a.b": 1}`."""
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in flatten(part, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: value}


def _write(file: Path, record: Versioned) -> None:
    """Complete or not at all, and on the disk when it returns."""
    part = file.with_name(f".{file.name}.part")
    with open(part, "w") as handle:
        handle.write(record.to_json(indent=1) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, file)
    sync_folder(file.parent)
