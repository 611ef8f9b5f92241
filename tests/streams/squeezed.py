"""The ways in which files of a data set may be compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

import pyarrow as pa
import pytest

Squeeze = Callable[[bytes], bytes]


def by_arrow(codec: str) -> Squeeze:
    def squeeze(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(data)
        return bytes(sink.getvalue().to_pybytes())

    return squeeze


WAYS: dict[str, Squeeze] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
}
every_way = pytest.mark.parametrize("squeeze", WAYS.values(), ids=WAYS)
