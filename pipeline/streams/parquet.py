"""Parquet as output, with the metadata by which `load_dataset("parquet", …)` decodes images and names classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.media.provenance import PROVENANCE
from pipeline.media.records import Sample
from pipeline.streams.columns import LABEL_MEMBER, HubRow, member_name, members_to_row, row_to_members
from pipeline.streams.contract import InputStream, Unwritable
from pipeline.streams.files import Stored
from pipeline.streams.store import Store

TEXT_MEMBERS = ("txt", "json")
"""Members that have columns of their own, where they are UTF-8."""
GROUP_ROWS = 100
"""Rows in a row group, at most."""
GROUP_BYTES = 32 << 20
"""Bytes in a row group, about, at most."""


class ParquetWriter:
    """Writes one parquet file for each shard, all with one schema; the same samples give the same bytes.

    The columns from a Hugging Face source are its own, then `key` and `provenance` (with `doppel_` in front where the
    source has such a column). From others they are `key`, `image`, `label` (null where unknown), `txt` and `json` (the
    members of that name, where they are UTF-8), `members` (all others, name and bytes), and `provenance`.

    Rows are held back until a row group is full: 100 rows or 32 MiB.
    """

    def __init__(self, *, store: Store, parts: Path, name: str, stream: InputStream) -> None:
        import pyarrow.parquet as pq

        features, self._to_row = _plain_layout(stream) if stream.features is None else _source_layout(stream)
        self._schema = features.arrow_schema
        self._part, self._store, self._final = parts / f"{name}.parquet", store, f"data/{name}.parquet"
        self._file = open(self._part, "wb")  # noqa: SIM115 (closed by commit or abort)
        self._writer = pq.ParquetWriter(self._file, self._schema, write_page_index=True)
        self._rows: list[Any] = []
        self._bytes = 0
        self._keys = set[str]()

    def add(self, samples: Sequence[Sample]) -> None:
        """Takes the samples; see `ShardWriter`.

        `Unwritable` are a label without a name, a member without a column, a key that the shard has, and whatever the
        schema cannot hold, such as a name that is no UTF-8.
        """
        keys = [sample.key for sample in samples]
        for i, key in enumerate(keys):
            if key in self._keys or key in keys[:i]:
                raise Unwritable(f"key {key!r} is taken by another sample of this shard")
        rows = [self._row(sample) for sample in samples]
        self._rows += rows
        self._keys.update(keys)
        self._bytes += sum(row.nbytes for row in rows)
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _row(self, sample: Sample) -> Any:
        """A table of one row."""
        import pyarrow as pa

        try:
            return pa.Table.from_pylist([self._to_row(sample)], schema=self._schema)
        except (pa.ArrowException, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            raise Unwritable(f"the columns cannot hold it ({error})") from None

    def commit(self) -> dict[str, Stored]:
        """Writes the last row group and publishes the file; see `ShardWriter`."""
        self._flush()
        self._writer.close()
        self._file.close()
        return {self._final: self._store.put_file(self._part, self._final)}

    def abort(self) -> None:
        """Removes what was written so far."""
        with suppress(OSError):  # both write what is left: the disk may be full
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            table = pa.concat_tables(self._rows).combine_chunks()
            self._writer.write_table(table, row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0


def read_parquet(path: Path, stream: InputStream) -> Iterator[Sample]:
    """Yields the outputs of a file that `ParquetWriter` has written for a shard of `stream`."""
    import pyarrow.parquet as pq

    source, image, label = stream.features, stream.image_column, stream.label_column
    if source is None:
        key, provenance = "key", "provenance"
    else:
        key, provenance = _free("key", source), _free("provenance", source)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                if source is None:
                    texts = {name: row[name].encode() for name in TEXT_MEMBERS if row[name] is not None}
                    members = {**texts, **{one["name"]: one["content"] for one in row["members"]}}
                    picture, number = row["image"], row["label"]
                else:
                    columns = {column: row[column] for column in source}
                    members = row_to_members(columns, source.arrow_schema, str(image), label)
                    picture, number = row[image], None if label is None else row[label]
                yield Sample(
                    key=row[key],
                    image=picture["bytes"],
                    image_ext=picture["path"].removeprefix(f"{row[key].rpartition('/')[2]}."),
                    label=number,
                    members={**members, PROVENANCE: row[provenance].encode()},
                )


def _plain_layout(stream: InputStream) -> tuple[Any, Callable[[Sample], HubRow]]:
    from datasets import ClassLabel, Features, Image, List, Value

    names = stream.label_names
    features = Features(
        {
            "key": Value("string"),
            "image": Image(),
            "label": Value("int64") if names is None else ClassLabel(names=list(names)),
            **{name: Value("string") for name in TEXT_MEMBERS},
            "members": List({"name": Value("string"), "content": Value("binary")}),
            "provenance": Value("string"),
        }
    )

    def to_row(sample: Sample) -> HubRow:
        texts = {name: _text(sample.members.get(name)) for name in TEXT_MEMBERS}
        stored = {PROVENANCE, *(name for name, text in texts.items() if text is not None)}
        if sample.label is not None and sample.members.get(LABEL_MEMBER) == str(sample.label).encode():
            stored.add(LABEL_MEMBER)
        return {
            "key": sample.key,
            "image": _image(sample),
            "label": _label(sample, names),
            **texts,
            "members": [{"name": n, "content": c} for n, c in sample.members.items() if n not in stored],
            "provenance": _text(sample.members.get(PROVENANCE)),
        }

    return features, to_row


def _source_layout(stream: InputStream) -> tuple[Any, Callable[[Sample], HubRow]]:
    from datasets import Features, Value

    source, image, label = stream.features, stream.image_column, stream.label_column
    if image is None:
        raise ValueError("an InputStream with features must say which column is the image")
    key, provenance = _free("key", source), _free("provenance", source)
    features = Features({**source, key: Value("string"), provenance: Value("string")})
    schema = source.arrow_schema
    known = {LABEL_MEMBER, PROVENANCE} | {
        f"{member_name(column)}.{suffix}" for column in source for suffix in ("txt", "bin", "json")
    }

    def to_row(sample: Sample) -> HubRow:
        if lost := set(sample.members) - known:
            raise Unwritable(f"members {sorted(lost)} have no column")
        row = members_to_row(sample.members, schema, image, label)
        if label is not None:
            row[label] = _label(sample, stream.label_names)
        return {
            **row,
            image: _image(sample),
            key: sample.key,
            provenance: _text(sample.members.get(PROVENANCE)),
        }

    return features, to_row


def _free(name: str, taken: Any) -> str:
    while name in taken:
        name = f"doppel_{name}"
    return name


def _image(sample: Sample) -> dict[str, Any]:
    return {"bytes": sample.image, "path": f"{sample.key.rpartition('/')[2]}.{sample.image_ext}"}


def _label(sample: Sample, names: tuple[str, ...] | None) -> int | None:
    """`datasets` refuses to load a whole file for one label without a name; −1 stands for none."""
    if sample.label is not None and names is not None and not -1 <= sample.label < len(names):
        raise Unwritable(f"label {sample.label} is not among the {len(names)} names")
    return sample.label


def _text(content: bytes | None) -> str | None:
    if content is None:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
