"""The records of a job, each read once: those of an object store also from one file that holds them all.

A record is known by its path and the mark that a listing tells of it, which changes whenever the record is put again.
So what the index, or this process, has of a record counts only while the mark is the same, and an index that is old,
damaged or gone costs time and nothing else.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pipeline.streams.job_records import ShardRecord
from pipeline.streams.store import Entry, Store

INDEX = "records.jsonl.gz"
"""The file with all records: a line for each, of its path, its mark and its content."""
AT_ONCE = 32
"""Records of an object store that are fetched at a time."""


class RecordIndex:
    """The records in one folder of a store."""

    def __init__(self, store: Store, folder: str, read: Callable[[str, bytes], ShardRecord]) -> None:
        """`read` makes a record of its path and its content, and raises `UserError` for what is none."""
        self._store, self._folder, self._read = store, folder, read
        self._known = dict[str, tuple[str, ShardRecord]]()
        self._loaded = self._saved = store.local is not None  # a disk is as fast without

    def records(self) -> list[ShardRecord]:
        """All records, by their paths; those that have not changed since are not fetched again."""
        entries = sorted(self._store.list(self._folder), key=lambda entry: entry.path)
        if entries and not self._loaded:
            self._load(entries)
        new = [entry for entry in entries if self._known.get(entry.path, ("",))[0] != entry.mark]
        with ThreadPoolExecutor(1 if self._store.local is not None else AT_ONCE) as pool:
            for entry, content in zip(new, pool.map(self._store.read, [entry.path for entry in new]), strict=True):
                self._known.pop(entry.path, None)
                if content is not None:  # another run may have removed it since it was listed
                    self._known[entry.path] = entry.mark, self._read(entry.path, content)
        self._saved = self._saved and (self._store.local is not None or not new)
        return [self._known[entry.path][1] for entry in entries if entry.path in self._known]

    def save(self) -> None:
        """Puts the index where records have been fetched since it was read; none on a disk."""
        if self._saved:
            return
        lines = (f"{json.dumps([path, mark, record.to_json()])}\n" for path, (mark, record) in self._known.items())
        self._store.put(INDEX, gzip.compress("".join(lines).encode(), 6, mtime=0))
        self._saved = True

    def _load(self, entries: list[Entry]) -> None:
        """Takes from the index what it has of these entries."""
        marks, self._loaded = {entry.path: entry.mark for entry in entries}, True
        content = self._store.read(INDEX)
        with suppress(OSError, EOFError, zlib.error, ValueError, TypeError):  # damaged: what remains is fetched
            for line in gzip.decompress(content or b"").splitlines():
                path, mark, record = json.loads(line)
                if marks.get(path) == mark:
                    self._known[path] = mark, self._read(path, record.encode())
            self._saved = content is not None
