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

from pipeline.errors import UserError
from pipeline.streams.job_records import ShardRecord
from pipeline.streams.store import Entry, Store

INDEX = "records.jsonl.gz"
"""The file with all records: a line for each, of its path, its mark and its content."""
AT_ONCE = 32
"""Records of an object store that are fetched at a time."""


class RecordIndex:
    """The records in one folder of a store."""

    def __init__(
        self, store: Store, folder: str, fetch: Callable[[str], ShardRecord | None],
        parse: Callable[[str, bytes], ShardRecord],
    ) -> None:  # fmt: skip
        """`fetch` reads the record at a path, `parse` makes one of a path and its content; both raise `UserError`."""
        self._store, self._folder, self._fetch, self._parse = store, folder, fetch, parse
        self._known = dict[str, tuple[str, ShardRecord]]()
        self._loaded = self._saved = store.local is not None  # a disk is as fast without

    def records(self) -> list[ShardRecord]:
        """All records, by their paths; those that have not changed since are not fetched again."""
        found = (entry for entry in self._store.list(self._folder) if _is_record(entry.path, self._folder))
        entries = sorted(found, key=lambda entry: entry.path)
        if entries and not self._loaded:
            self._load(entries)
        new = [entry for entry in entries if not self._knows(entry)]
        with ThreadPoolExecutor(1 if self._store.local is not None else AT_ONCE) as pool:
            for entry, record in zip(new, pool.map(self._fetch, [entry.path for entry in new]), strict=True):
                self._known.pop(entry.path, None)
                if record is not None:  # another run may have removed it since it was listed
                    self._known[entry.path] = entry.mark, record
        self._saved = self._saved and (self._store.local is not None or not new)
        return [self._known[entry.path][1] for entry in entries if entry.path in self._known]

    def save(self) -> None:
        """Puts the index where records have been fetched since it was read; none on a disk."""
        if self._saved:
            return
        lines = (f"{json.dumps([path, mark, record.to_json()])}\n" for path, (mark, record) in self._known.items())
        self._store.put(INDEX, gzip.compress("".join(lines).encode(), 6, mtime=0))
        self._saved = True

    def _knows(self, entry: Entry) -> bool:
        """Whether the record is the one that was read; a mark that is no more than a size says nothing."""
        return self._known.get(entry.path, ("",))[0] == entry.mark != str(entry.bytes)

    def _load(self, entries: list[Entry]) -> None:
        """Takes from the index what it has of these entries."""
        marks, self._loaded = {entry.path: entry.mark for entry in entries}, True
        content = self._store.read(INDEX)
        with suppress(
            UserError, OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError
        ):  # damaged: what remains is fetched
            for line in gzip.decompress(content or b"").splitlines():
                path, mark, record = json.loads(line)
                if marks.get(path) == mark:
                    self._known[path] = mark, self._parse(path, record.encode())
            self._saved = content is not None


def _is_record(path: str, folder: str) -> bool:
    name = path.removeprefix(f"{folder}/")
    return "/" not in name and name.endswith(".json")
