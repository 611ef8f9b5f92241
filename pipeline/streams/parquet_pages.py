"""How large the pages of a parquet file are, from their headers alone: a page is the least that can be decoded."""

from __future__ import annotations

from typing import Protocol

HEADER = 1 << 10
"""Bytes that are read for a header at first."""
LARGEST_HEADER = 1 << 24
"""Bytes of a header, at most; statistics make them long."""
DEEPEST = 8
"""Structures inside each other, at most."""


class Readable(Protocol):
    """What is needed of a file."""

    def seek(self, position: int, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


def largest_page(file: Readable, start: int, length: int) -> int:
    """Bytes of the largest page, compressed or not, among those in `length` bytes of `file` from `start` on.

    Raises `ValueError` for what is no sequence of pages.
    """
    largest, at, end = 0, start, start + length
    if start < 0 or length < 0:
        raise ValueError(f"a column begins at byte {start} and has {length} bytes")
    while at < end:
        uncompressed, compressed, header = _header(file, at, end)
        largest = max(largest, uncompressed, compressed)
        at += header + compressed
    return largest


def _header(file: Readable, at: int, end: int) -> tuple[int, int, int]:
    """(uncompressed bytes, compressed bytes, bytes of the header itself)."""
    size = HEADER
    while True:
        file.seek(at)
        data = file.read(min(size, end - at))
        try:
            fields = dict[int, int]()
            length = _struct(data, 0, fields, 0)
            break
        except IndexError:
            if len(data) < size or size >= LARGEST_HEADER:
                raise ValueError(f"the page header at byte {at} is cut off or endless") from None
            size *= 4
    uncompressed, compressed = fields.get(2, -1), fields.get(3, -1)
    if uncompressed < 0 or compressed < 0:
        raise ValueError(f"the page header at byte {at} states no sizes")
    return uncompressed, compressed, length


def _struct(data: bytes, at: int, fields: dict[int, int], depth: int) -> int:
    """Where a structure in Thrift's compact protocol ends; fills `fields` with its integers, by number.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    """
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            value, at = _varint(data, at)
            number = _zigzag(value)
        kind = head & 15
        if kind in (4, 5, 6):
            value, at = _varint(data, at)
            fields[number] = _zigzag(value)
        elif kind not in (1, 2):  # true and false have no content
            at = _skip(data, at, kind, depth)
    return at + 1


def _skip(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value of type `kind` ends."""
    if depth > DEEPEST:
        raise ValueError("a page header is nested too deeply")
    if kind in (1, 2, 3):
        return at + 1
    if kind in (4, 5, 6):
        return _varint(data, at)[1]
    if kind == 7:
        return at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return at + length
    if kind in (9, 10):
        size, item, at = data[at] >> 4, data[at] & 15, at + 1
        if size == 15:
            size, at = _varint(data, at)
        for _ in range(size):
            data[at]  # an endless list ends with the data
            at = _skip(data, at, item, depth + 1)
        return at
    if kind == 12:
        return _struct(data, at, {}, depth + 1)
    raise ValueError(f"a page header holds type {kind}, which has no place there")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number in a page header is too long")


def _zigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)
