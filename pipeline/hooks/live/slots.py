"""A bounded store of images on disk: one process writes, any number read, and nobody ever waits for a lock.

A key belongs to one bucket of slots, chosen by its hash. A reader copies a slot and checks the checksum that lies in
it. A slot that was overwritten meanwhile, or cut short by a crash of the writer, does not match, and counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.posix import lock

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

WAYS = 32
"""Slots in a bucket. With as many slots as keys, about 7 % of the keys find their bucket full and wait for their
turn."""
HEAD = np.dtype([("key", "<u8"), ("copy", "<i8"), ("checksum", "<u4"), ("reads", "<u4")])
"""The head of a slot: hash of the key, number of the copy, CRC-32 of both and the pixels, and how often it was read."""
EMPTY = 2**32 - 1
"""The value of `reads` in a slot that holds nothing."""
HEADS, PIXELS, READERS = "heads.raw", "pixels.raw", "readers"
"""The files of heads and of pixels, and the folder of the readers' counts."""


class Counts(NamedTuple):
    """What readers got, over all processes."""

    read: int
    """Neighbours handed out."""
    again: int
    """How many of these had been read `uses` times before; it grows where the maker does not keep up."""
    missing: int
    """How often nothing was there, and the original was used."""


class ReadSlot(NamedTuple):
    """A neighbour as it was read: the number of its copy, and its pixels."""

    copy: int
    pixels: Pixels8
    """uint8 RGB `[H, W, 3]`."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The files of a store in `folder`; a slot may be overwritten when it has been read `uses` times."""

    folder: Path
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    capacity: int
    """Images that are wanted on disk, at most."""
    uses: int
    """How often an image is to be read before it may be overwritten."""

    @property
    def ways(self) -> int:
        """Slots in a bucket."""
        return min(WAYS, self.capacity)

    @property
    def slots(self) -> int:
        """How many slots there are: the capacity, rounded down to whole buckets."""
        return self.capacity // self.ways * self.ways

    def create(self) -> None:
        """Makes empty files of full size. Raises `UserError` where the disk has no room for them."""
        (self.folder / READERS).mkdir(exist_ok=True)
        for name, size in ((PIXELS, self.slots * self.size[0] * self.size[1] * 3), (HEADS, self.slots * HEAD.itemsize)):
            with open(self.folder / name, "wb") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)  # a hole that finds no room later would be a SIGBUS
                except OSError as error:
                    raise UserError(
                        f"{self.folder}: no room for {self.slots} neighbours, {size:,} bytes ({error.strerror})"
                    ) from None
        heads, _ = self.open("r+")
        heads["reads"] = EMPTY

    def open(self, mode: str) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
        """Maps the heads `[slots]` and the pixels uint8 `[slots, H, W, 3]`; `mode` is numpy's."""
        heads = np.memmap(self.folder / HEADS, HEAD, mode=mode, shape=(self.slots,))  # type: ignore[call-overload]
        pixels = np.memmap(self.folder / PIXELS, np.uint8, mode=mode, shape=(self.slots, *self.size, 3))  # type: ignore[call-overload]
        return heads.view(np.ndarray), pixels.view(np.ndarray)  # as memmaps, each access would cost ten times as much

    def bucket(self, mark: int) -> slice:
        """The slots of the bucket of a key, given `mark_of(key)`."""
        start = mark % (self.slots // self.ways) * self.ways
        return slice(start, start + self.ways)

    def counts(self) -> Counts:
        """The counts of all readers, including those that have ended."""
        each = [np.fromfile(file, np.int64) for file in (self.folder / READERS).iterdir()]
        return Counts(*sum((counts for counts in each if len(counts) == 3), np.zeros(3, np.int64)).tolist())


class SlotReader:
    """Reads neighbours and counts what it reads; one for each process."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._heads, self._pixels = slots.open("r+")
        self._claim, self._counts = _claimed(slots.folder / READERS)

    def get(self, key: str) -> ReadSlot | None:
        """The least read neighbour of `key`, or None; both are counted."""
        mark = mark_of(key)
        bucket = self._slots.bucket(mark)
        heads = self._heads[bucket]
        places = np.flatnonzero(heads["key"] == mark)
        for place in sorted(places.tolist(), key=lambda place: int(heads["reads"][place])):
            head, pixels = heads[place].copy(), self._pixels[bucket.start + place].copy()
            if head["key"] == mark and head["checksum"] == checksum(mark, int(head["copy"]), pixels):
                # A reader that comes at the same time, or the maker, may undo this: one use more, or one less.
                heads["reads"][place] = head["reads"] + 1
                self._counts[0] += 1
                self._counts[1] += int(head["reads"] >= self._slots.uses)
                return ReadSlot(int(head["copy"]), pixels)
        self._counts[2] += 1
        return None


class SlotWriter:
    """Writes neighbours; a store has only one writer."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._heads, self._pixels = slots.open("r+")

    def place(self, key: str, each: int, taken: Collection[int]) -> int | None:
        """Chooses the slot for a new neighbour of `key`, or None where there is no slot to give.

        An empty slot comes first, then one of its own that is used up, then the most read one of others; slots in
        `taken` are left alone. None means that the key has `each` neighbours that are not used up, or that all slots of
        its bucket are wanted.
        """
        mark = mark_of(key)
        bucket = self._slots.bucket(mark)
        heads = self._heads[bucket]
        own, reads = heads["key"] == mark, heads["reads"].astype(np.int64)
        free = reads >= self._slots.uses
        if np.count_nonzero(own & ~free) >= each:
            return None
        free[[slot - bucket.start for slot in taken if bucket.start <= slot < bucket.stop]] = False
        if not free.any():
            return None
        return bucket.start + int(np.where(free, reads + own * (EMPTY // 2), -1).argmax())

    def put(self, slot: int, key: str, copy: int, pixels: Pixels8) -> None:
        """Writes a neighbour into a slot: uint8 `[H, W, 3]`. Readers find it only when it is complete."""
        mark = mark_of(key)
        head = self._heads[slot : slot + 1]
        head["key"] = 0  # nobody looks for what is half there
        self._pixels[slot] = pixels
        head["copy"], head["checksum"], head["reads"] = copy, checksum(mark, copy, pixels), 0
        head["key"] = mark


def mark_of(key: str) -> int:
    """64 bits of the key's hash, never 0."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) or 1


def checksum(mark: int, copy: int, pixels: Pixels8) -> int:
    """CRC-32 of a neighbour's key, copy and pixels."""
    return zlib.crc32(np.ascontiguousarray(pixels).data, zlib.crc32(f"{mark}-{copy}".encode()))


def _claimed(folder: Path) -> tuple[IO[bytes], NDArray[np.int64]]:
    """Counters that no other process adds to, held as long as the file is open; those of a process that has ended
    are taken over as they stand, so that there are never more files than there were readers at a time."""
    number = 0
    while True:
        file = open(folder / str(number), "ab")  # noqa: SIM115
        if not lock(file):
            file.close()
            number += 1
            continue
        file.truncate(3 * 8)
        return file, np.memmap(file.name, np.int64, mode="r+", shape=(3,)).view(np.ndarray)
