"""How large the messages of an Arrow stream become when they are unpacked, from their headers alone."""

from __future__ import annotations

import struct
from typing import Any

DICTIONARY, BATCH = 2, 3
"""The kinds of messages that hold data."""


def unpacked_bytes(message: Any) -> int:
    """Bytes of all buffers of a `pyarrow.Message` once they are unpacked; 0 where it is not compressed.

    Raises `ValueError` for a header that is none. https://arrow.apache.org/docs/format/Columnar.html#compression
    """
    try:
        return _unpacked(memoryview(message.metadata), memoryview(message.body or b""))
    except (struct.error, IndexError):
        raise ValueError("the header of a message is damaged") from None


def _unpacked(head: memoryview, body: memoryview) -> int:
    root = _at(head, "<I", 0)
    kind, header = _field(head, root, 1), _field(head, root, 2)
    if not kind or not header or head[kind] not in (DICTIONARY, BATCH):
        return 0
    batch = header + _at(head, "<I", header)
    if head[kind] == DICTIONARY:
        if not (inner := _field(head, batch, 1)):
            return 0
        batch = inner + _at(head, "<I", inner)
    compressed, buffers = _field(head, batch, 3), _field(head, batch, 2)
    if not compressed or not buffers:
        return 0
    first = buffers + _at(head, "<I", buffers)
    total = 0
    for i in range(_at(head, "<I", first)):
        offset, length = _at(head, "<q", first + 4 + 16 * i), _at(head, "<q", first + 12 + 16 * i)
        if length > 0:  # in front of a packed buffer stands its size, or −1 where it did not get smaller
            size = _at(body, "<q", offset)
            total += length if size < 0 else size
    return total


def _field(head: memoryview, table: int, number: int) -> int:
    """Where a field of a table begins; 0 where it has none. https://flatbuffers.dev/internals/"""
    layout = table - _at(head, "<i", table)
    entry = 4 + 2 * number
    offset = _at(head, "<H", layout + entry) if entry < _at(head, "<H", layout) else 0
    return table + offset if offset else 0


def _at(data: memoryview, form: str, place: int) -> int:
    if place < 0:
        raise IndexError(place)
    value: int = struct.unpack_from(form, data, place)[0]
    return value
