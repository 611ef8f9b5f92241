"""Parquet and Arrow files as tables of one row each, with no more than a page or a row in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.streams.arrow_messages import unpacked_bytes
from pipeline.streams.bounds import Bounds
from pipeline.streams.files import is_damage, open_url
from pipeline.streams.parquet_pages import largest_page

READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time."""
FETCH_BYTES = 64 << 20
"""Where no row group of a remote file has more bytes, each is fetched at once, because every request takes its time."""
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""What closes an Arrow stream."""
FILE_MAGIC = b"ARROW1\0\0"
"""What an Arrow file begins with; a stream follows."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row that cannot be had, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A place where rows are lost."""

    place: str
    cause: str
    rows: int | None = None
    """How many; None where nobody knows. Then nothing follows."""


def file_tables(url: str, builder: str, features: Any, bounds: Bounds) -> Iterator[Any]:
    """Yields the rows of a file in order, cast to `features`, a `datasets.Features`.

    Each is a `pyarrow.Table` of one row or a `BadRow`; a `Lost` stands for a run of rows. `builder` is `parquet` or
    `arrow`. Raises what the file system raises.
    """
    schema = features.arrow_schema
    with open_url(url) as file:
        try:
            for table in _READERS[builder](file, url, schema, bounds):
                yield _checked(table, schema, bounds)
        except Exception as error:
            if not is_row_damage(error):
                raise
            yield Lost(place="the file", cause=first_line(error))


def file_features(url: str, builder: str, bounds: Bounds) -> Any:
    """The `datasets.Features` of a file, by its schema. Raises what its reader raises; see `is_row_damage`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    with open_url(url) as file:
        if builder == "parquet":
            _check_footer(file, bounds)
            schema = pq.read_schema(file)
        else:
            source = pa.PythonFile(file, "r")
            _skip_magic(source)
            schema = pa.ipc.open_stream(source).schema
    try:
        return Features.from_arrow_schema(schema)
    except Exception as error:  # whatever the library makes of what somebody else wrote
        raise ValueError(f"what it says of its columns is damaged ({first_line(error)})") from error


def stream_tables(data: Any, features: Any, bounds: Bounds, *, local: bool) -> Iterator[Any]:
    """Yields the rows of `data`, which gives Arrow tables of one row, as `file_tables` does."""
    try:
        schema = features.arrow_schema
        for table in data:
            yield _checked(table, schema, bounds)
    except Exception as error:
        if not is_row_damage(error, local=local):
            raise
        yield Lost(place="this part", cause=first_line(error))


def is_row_damage(error: Exception, *, local: bool = True) -> bool:
    """Whether an error means broken bytes; see `files.is_damage`. What fails of a file by `open_url` is no damage."""
    import pyarrow as pa

    return isinstance(error, pa.ArrowException) or is_damage(error, local=local)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _parquet_tables(file: BinaryIO, url: str, target: Any, bounds: Bounds) -> Iterator[Any]:
    """Of a damaged row group, the rows before the damage are read; then the next group is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    local = "://" not in url
    _check_footer(file, bounds)
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    at_once = not local and all(_bytes(group) <= FETCH_BYTES for group in groups)
    reader = pq.ParquetFile(file, metadata=metadata, pre_buffer=at_once, buffer_size=0 if at_once else READ_BYTES)
    if (problem := _mismatch(reader.schema_arrow, target)) is not None:
        yield Lost(place="the file", cause=problem, rows=sum(max(0, group.num_rows) for group in groups))
        return
    for index, group in enumerate(groups):
        done, cause = 0, "it ends early"
        try:
            _check_pages(file, group, bounds, local=local)
            for batch in reader.iter_batches(batch_size=1, row_groups=[index], use_threads=False):
                done += batch.num_rows
                yield pa.Table.from_batches([batch])
        except Exception as error:
            if not is_row_damage(error):
                raise
            cause = first_line(error)
        if done < group.num_rows:
            yield Lost(place=f"row group {index}", cause=cause, rows=group.num_rows - done)


def _check_footer(file: BinaryIO, bounds: Bounds) -> None:
    """Raises `ValueError` for a footer over the bound. The file ends with its size and four more bytes."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 8))
    size = int.from_bytes(file.read(4), "little")
    if size > bounds.footer_bytes:
        raise ValueError(f"its footer has {size} bytes; input.bounds.footer_bytes allows {bounds.footer_bytes}")


def _check_pages(file: BinaryIO, group: Any, bounds: Bounds, *, local: bool) -> None:
    """Raises `ValueError` for a page over the bound. Remote pages are asked only where the footer gives cause."""
    for index in range(group.num_columns):
        column = group.column(index)
        if local or column.total_uncompressed_size > bounds.page_bytes:
            offsets = (column.dictionary_page_offset, column.data_page_offset)
            start = min(offset for offset in offsets if offset is not None)
            size = largest_page(file, start, column.total_compressed_size)
            if size > bounds.page_bytes:
                raise ValueError(
                    f"a page of column {column.path_in_schema} has {size} bytes; "
                    f"input.bounds.page_bytes allows {bounds.page_bytes}"
                )


def _bytes(group: Any) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def _arrow_tables(file: BinaryIO, url: str, target: Any, bounds: Bounds) -> Iterator[Any]:
    """A local file is mapped into memory, so that a batch of many rows takes none until one is read."""
    import pyarrow as pa

    with pa.memory_map(url) if "://" not in url else pa.PythonFile(file, "r") as source:
        start = _skip_magic(source)
        if "://" not in url:
            _check_messages(source, bounds)
            source.seek(start)
        stream = pa.ipc.open_stream(source)
        problem = _mismatch(stream.schema, target)
        for batch in stream:
            try:
                batch.validate(full=True)
            except pa.ArrowInvalid as error:
                yield Lost(place="a batch", cause=first_line(error), rows=batch.num_rows)
                continue
            if problem is not None:
                yield Lost(place="a batch", cause=problem, rows=batch.num_rows)
                continue
            for row in range(batch.num_rows):
                yield pa.Table.from_batches([batch.slice(row, 1)])
        source.seek(max(0, source.tell() - len(END_OF_STREAM)))
        if source.read(len(END_OF_STREAM)) != END_OF_STREAM or (not start and source.read(1)):
            raise ValueError("the stream does not end where it says, or is cut off")


def _skip_magic(source: Any) -> int:
    """Goes to where the stream begins, which an Arrow file holds, too; returns that place."""
    start = len(FILE_MAGIC) if source.read(len(FILE_MAGIC)) == FILE_MAGIC else 0
    source.seek(start)
    return start


def _check_messages(source: Any, bounds: Bounds) -> None:
    """Raises `ValueError` for a batch that would be over the bound once unpacked."""
    import pyarrow as pa

    with suppress(OSError, pa.ArrowException):  # damage is told when it is read
        for message in pa.ipc.MessageReader.open_stream(source):
            if (size := unpacked_bytes(message)) > bounds.page_bytes:
                raise ValueError(
                    f"a batch has {size} bytes once unpacked; input.bounds.page_bytes allows {bounds.page_bytes}"
                )


def _mismatch(schema: Any, target: Any) -> str | None:
    """Why a table of this schema cannot be cast to `target`; None where it can."""
    from datasets.table import table_cast

    try:
        table_cast(schema.empty_table(), target)
    except Exception as error:  # whatever the library makes of a foreign schema
        return f"its columns do not fit the data set ({first_line(error)}: {', '.join(schema.names)})"
    return None


def _checked(table: Any, target: Any, bounds: Bounds) -> Any:
    """A table of one row, cast as `datasets` does it; or why it cannot be used."""
    from datasets.table import table_cast

    if isinstance(table, Lost):
        return table
    if table.nbytes > bounds.sample_bytes:
        return BadRow(
            reason=f"the row has {table.nbytes} bytes; input.bounds.sample_bytes allows {bounds.sample_bytes}"
        )
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.nbytes > bounds.member_bytes:
            allowed = f"input.bounds.member_bytes allows {bounds.member_bytes}"
            return BadRow(reason=f"column {name!r} has {column.nbytes} bytes; {allowed}")
    try:
        return table_cast(table, target)
    except Exception as error:
        if not is_row_damage(error, local=True):
            raise
        return BadRow(reason=f"the row cannot be read ({first_line(error)})")


_READERS = {"parquet": _parquet_tables, "arrow": _arrow_tables}
