"""The lines of a file of unknown quality, plain or compressed, in memory that does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.streams.compressed import Damage, unpacked


@dataclass(frozen=True)
class Line:
    """A line without its end (`\\n`, `\\r\\n`)."""

    start: bytes
    """The whole line, or its beginning where it is too long."""
    size: int
    """Bytes of the whole line; where it is too long, the `\\r` counts."""
    too_long: bool
    """Whether only the beginning of the line was kept."""


def read_lines(file: BinaryIO, longest: int) -> Iterator[Line | Damage]:
    """Yields the lines of a file from front to back, `longest` bytes of each at most.

    The last line needs no line end. Where the file is damaged, that is the last item, and the line that is torn by it
    is not given. Storage that fails raises.
    """
    try:
        yield from _split(unpacked(file), longest)
    except Damage as damage:
        yield damage


def _split(pieces: Iterator[bytes], longest: int) -> Iterator[Line]:
    start, size = bytearray(), 0
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for end in ended:
            start += end
            size += len(end)
            if size == len(start) and start.endswith(b"\r"):
                size -= 1
            yield Line(bytes(start[: min(size, longest)]), size, size > longest)
            start, size = bytearray(), 0
        start += rest[: longest + 1 - len(start)]
        size += len(rest)
    if size:
        yield Line(bytes(start[:longest]), size, size > longest)
