"""The lines of a file of unknown quality, plain or gzipped, in memory that does not grow with their length."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from pipeline.streams.files import CHUNK, is_damage

LONGEST_LINE = 1 << 20
"""Bytes of a line that is read whole, at most."""


@dataclass(frozen=True)
class Line:
    """A line without its end (`\\n`, `\\r\\n`)."""

    start: bytes
    """The whole line, or its beginning where it is too long."""
    size: int
    """Bytes of the whole line; where it is too long, the `\\r` counts."""

    @property
    def too_long(self) -> bool:
        """Whether only the beginning of the line was kept."""
        return self.size > LONGEST_LINE


def read_lines(file: BinaryIO, *, local: bool) -> Iterator[Line | Exception]:
    """Yields the lines of a file from front to back. Where it is damaged, the error is the last item.

    The last line needs no line end. Storage that fails raises; `local` says whether the file lies on this machine.
    """
    try:
        yield from _split(_decompressed(file))
    except Exception as error:
        if not is_damage(error, local=local):
            raise
        yield error


def _split(file: BinaryIO) -> Iterator[Line]:
    start, size = b"", 0
    while chunk := file.read(CHUNK):
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            start, size = start + piece, size + len(piece)
            whole = start.removesuffix(b"\r") if size == len(start) else start
            yield Line(whole, size - len(start) + len(whole))
            start, size = b"", 0
        start, size = start + rest[: LONGEST_LINE + 1 - len(start)], size + len(rest)
    if size:
        yield Line(start, size)


def _decompressed(file: BinaryIO) -> BinaryIO:
    magic = file.read(2)
    file.seek(0)
    return cast(BinaryIO, gzip.open(file, "rb")) if magic == b"\x1f\x8b" else file
