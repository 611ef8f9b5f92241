"""How many bytes a job holds: what lies between reading and writing is bounded by bytes, and not by count."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TypeVar

from pipeline.media.opening import decoded_bytes
from pipeline.media.records import Batch, Rejected, Row, Sample

T = TypeVar("T")


class Budget:
    """The bytes that may lie between reading and writing. Batches come in and go out in one order.

    One batch may come in whatever it weighs, so that nothing waits for ever.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, deque[int]()
        self._changed, self._closed = threading.Condition(), False

    def admit(self, batches: Iterable[Batch]) -> Generator[Batch]:
        """Yields each batch as soon as there is room for it."""
        for batch in batches:
            weight = held_at_all(batch.rows, batch.rejected)
            with self._changed:
                while self._held and not self._closed and sum(self._held) + weight > self._most:
                    self._changed.wait()
                self._held.append(weight)
            yield batch

    def release(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields each item, made of one batch, and gives the room of the batch back when the next one is asked for."""
        for item in batches:
            yield item
            with self._changed:
                self._held.popleft()
                self._changed.notify_all()

    def close(self) -> None:
        """Lets everything through, so that threads can end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def held_at_all(rows: Iterable[Row], rejected: Iterable[Rejected]) -> int:
    """Bytes of some rows and rejected samples, with the pixels."""
    rows = list(rows)
    pixels = sum(row.image.nbytes + sum(guide.nbytes for guide in row.guides) for row in rows)
    return pixels + held_encoded(rows, rejected)


def held_encoded(rows: Iterable[Row], rejected: Iterable[Rejected]) -> int:
    """Bytes of some rows and rejected samples as they came; those of a clip count once."""
    clips = sum(
        len(row.sample.image) + _total(row.sample.members) + _total(row.moved) for row in rows if row.index == 0
    )
    return clips + sum(_total(bad.members) for bad in rejected)


def held_by(item: Sample | Rejected) -> int:
    """Bytes of a sample before it is decoded, and those that its image needs then."""
    if isinstance(item, Rejected):
        return _total(item.members)
    return len(item.image) + _total(item.members) + decoded_bytes(item.image)


def _total(members: Mapping[str, bytes]) -> int:
    return sum(map(len, members.values()))
