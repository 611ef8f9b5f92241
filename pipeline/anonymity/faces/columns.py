"""A file of columns that is memory-mapped: whoever reads rows reads these from the disk, and holds nothing else.

8 bytes     length of the header, little-endian
header      JSON: what the columns were made of, and type, shape and place of each
columns     each at a multiple of 64 bytes, rows one after another
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.streams.private import private_part

ALIGNED = 64
"""Columns begin at multiples of so many bytes, as matrix products have it best."""
LARGEST_HEADER = 1 << 20
"""Bytes that a header may have."""


class Column(NamedTuple):
    """What a column is: its type, as NumPy writes it (`<f4`), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How long it is."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class ColumnWriter:
    """Takes the rows of the columns of one file, in any order."""

    def __init__(self, file: BinaryIO, places: Mapping[str, int], columns: Mapping[str, Column]) -> None:
        self._file, self._places, self._columns = file, places, columns

    def put(self, name: str, row: int, values: NDArray[Any]) -> None:
        """Writes `values [R, …]` as rows `row` to `row + R` of a column."""
        column = self._columns[name]
        each = column.bytes // max(column.shape[0], 1)
        self._file.seek(self._places[name] + row * each)
        self._file.write(np.ascontiguousarray(values, dtype=column.dtype).tobytes())


@contextmanager
def writing(file: Path, columns: Mapping[str, Column], made_of: str) -> Iterator[ColumnWriter]:
    """Writes a private file of columns, completely or not at all; rows that nobody puts are 0."""
    places, end = _places(columns)
    header = json.dumps({"made_of": made_of, "columns": columns}).encode()
    start = _aligned(8 + len(header))
    with private_part(file) as part:
        part.write(len(header).to_bytes(8, "little") + header)
        part.truncate(start + end)
        yield ColumnWriter(part, {name: start + place for name, place in places.items()}, columns)


def mapped(file: Path, made_of: str) -> dict[str, NDArray[Any]] | None:
    """The columns of a file that was made of this; None for a file that is not there, is damaged, or of another kind.

    Nothing is read before it is used. What is written into the arrays stays in memory.
    """
    try:
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(length, LARGEST_HEADER)))
        if header["made_of"] != made_of:
            return None
        columns = {name: Column(dtype, tuple(shape)) for name, (dtype, shape) in header["columns"].items()}
        places, end = _places(columns)
        start = _aligned(8 + length)
        if file.stat().st_size != start + end:
            return None
        return {name: _map(file, start + places[name], column) for name, column in columns.items()}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _map(file: Path, offset: int, column: Column) -> NDArray[Any]:
    if not column.bytes:  # nothing of no length can be mapped
        return np.zeros(column.shape, column.dtype)
    return np.memmap(file, column.dtype, "c", offset, column.shape).view(np.ndarray)


def _places(columns: Mapping[str, Column]) -> tuple[dict[str, int], int]:
    """Where each column begins after the header, and where the last one ends."""
    places, end = dict[str, int](), 0
    for name, column in columns.items():
        places[name] = _aligned(end)
        end = places[name] + column.bytes
    return places, end


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNED) * ALIGNED
