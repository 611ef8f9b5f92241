"""Page headers of parquet files: sizes as pyarrow wrote them, and an end to anything else."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streams.parquet_pages import largest_page


def column(path: Path, index: int = 0) -> tuple[int, int]:
    found = pq.ParquetFile(path).metadata.row_group(0).column(index)
    return found.dictionary_page_offset or found.data_page_offset, found.total_compressed_size


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_the_largest_page_is_found(tmp_path: Path, version: str, compression: str, dictionary: bool) -> None:
    cells = [os.urandom(1000 + 9000 * (i == 37)) for i in range(64)]
    table = pa.table({"n": list(range(64)), "x": pa.array(cells)})
    pq.write_table(
        table, tmp_path / "x.parquet", write_batch_size=4, data_page_size=1, data_page_version=version,
        compression=compression, use_dictionary=dictionary, dictionary_pagesize_limit=1000, write_statistics=True,
    )  # fmt: skip
    with open(tmp_path / "x.parquet", "rb") as file:
        assert 13_000 <= largest_page(file, *column(tmp_path / "x.parquet", 1)) <= 13_200
        assert largest_page(file, *column(tmp_path / "x.parquet", 0)) <= 1000


def test_the_size_that_counts_is_the_one_in_memory(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"x": [bytes(1 << 24)]}), tmp_path / "x.parquet", compression="zstd", use_dictionary=False,
        write_statistics=False,
    )  # fmt: skip
    with open(tmp_path / "x.parquet", "rb") as file:
        start, length = column(tmp_path / "x.parquet")
        assert length < 1 << 14
        assert 1 << 24 <= largest_page(file, start, length) < (1 << 24) + 100


@given(content=st.binary(max_size=200), start=st.integers(-3, 100), length=st.integers(-3, 300))
def test_what_is_no_page_ends_with_a_sentence(content: bytes, start: int, length: int) -> None:
    with suppress(ValueError):
        assert largest_page(io.BytesIO(content), start, length) >= 0


@pytest.mark.parametrize("content", [b"\x19" * (1 << 20), b"\x1c" * (1 << 20), b"\x19\xff" + b"\xff" * 8 + b"\x01"])
def test_structures_without_end_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="page header"):
        largest_page(io.BytesIO(content + bytes(100)), 0, len(content))
