"""The release's secret order, out of core: images are scattered into buckets by rank, and each bucket is sorted alone.

The order depends on the keys and the salt only: neither on the number of buckets nor on the order of the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.release.finished_job import MadeImage, Span, read
from pipeline.release.privacy import rank_of
from pipeline.streams.private import make_private_folder, open_private

WAITING = 8 << 20
"""Bytes of entries that wait to be written to their buckets."""
RANK_BYTES = 16
"""Bytes of a rank."""


class Content(NamedTuple):
    """The bytes of an image of the job, and of those of its members that may be published."""

    image: bytes
    members: Mapping[str, bytes]
    """The members, by extension."""


class Shuffle:
    """Images in the order of their ranks.

    Of each image it holds 16 bytes, and of one bucket the entries and the bytes. The buckets hold keys, so that their
    folder is private.
    """

    def __init__(self, folder: Path, secret: bytes, buckets: int) -> None:
        """`folder` must be empty, or not exist; `buckets` is how many parts of about equal size there are."""
        self._folder, self._secret, self._buckets = make_private_folder(folder), secret, buckets
        self._tars, self._waiting, self._bytes = dict[Path, int](), dict[int, list[bytes]](), 0
        self._ranks = bytearray()

    def __len__(self) -> int:
        return len(self._ranks) // RANK_BYTES

    def add(self, entry: MadeImage) -> None:
        """Takes an image; only its place is kept."""
        rank = rank_of(self._secret, entry.key)
        tar = self._tars.setdefault(entry.tar, len(self._tars))
        line = json.dumps([rank.hex(), *entry._replace(tar=tar)]).encode() + b"\n"  # type: ignore[arg-type]
        self._waiting.setdefault(int.from_bytes(rank) * self._buckets >> 8 * RANK_BYTES, []).append(line)
        self._ranks += rank
        self._bytes += len(line)
        if self._bytes > WAITING:
            self._flush()

    def repeated(self) -> int:
        """How many images have a key that an earlier one has too."""
        ranks = np.frombuffer(self._ranks, f"S{RANK_BYTES}")
        return len(ranks) - len(np.unique(ranks))

    def __iter__(self) -> Iterator[tuple[MadeImage, Content]]:
        """Yields each image with its bytes, which are read from the job's tars in the order that they lie there."""
        self._flush()
        tars = list(self._tars)
        for bucket in range(self._buckets):
            entries = self._entries(bucket, tars)
            contents = dict[int, Content]()
            for tar in tars:
                mine = [i for i, entry in enumerate(entries) if entry.tar == tar]
                if mine:
                    with open(tar, "rb") as file:
                        for i in sorted(mine, key=lambda i: entries[i].image.offset):
                            members = {e: read(file, span) for e, span in sorted(entries[i].members.items())}
                            contents[i] = Content(read(file, entries[i].image), members)
            for i, entry in enumerate(entries):
                yield entry, contents.pop(i)

    def _entries(self, bucket: int, tars: list[Path]) -> list[MadeImage]:
        file = self._file(bucket)
        if not file.exists():
            return []
        with open(file, "rb") as lines:
            rows = sorted((json.loads(line) for line in lines), key=lambda row: (row[0], row[1]))
        entries = [MadeImage(*row[1:]) for row in rows]
        return [
            entry._replace(
                tar=tars[int(entry.tar)],  # type: ignore[call-overload]
                image=Span(*entry.image),
                members={extension: Span(*span) for extension, span in entry.members.items()},
            )
            for entry in entries
        ]

    def _flush(self) -> None:
        for bucket, lines in self._waiting.items():
            file = self._file(bucket)
            with open(file, "ab") if file.exists() else open_private(file) as handle:
                handle.writelines(lines)
        self._waiting, self._bytes = {}, 0

    def _file(self, bucket: int) -> Path:
        return self._folder / f"{bucket:06d}.jsonl"
