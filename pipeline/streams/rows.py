"""The rows of a streamed Hugging Face data set as samples, with image bytes as they are stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

from pipeline.media.records import Rejected, Sample
from pipeline.streams.bounds import Bounds
from pipeline.streams.columns import HubRow, row_to_members
from pipeline.streams.files import content_hash, fingerprint, stored_sha256
from pipeline.streams.labels import NO_LABEL, value_label
from pipeline.streams.names import unsafe
from pipeline.streams.own_files import Outside, OwnFiles
from pipeline.streams.remote import Unreachable
from pipeline.streams.shards import IMAGE_EXTENSIONS
from pipeline.streams.tables import BadRow, Lost, file_tables, first_line, stream_tables

MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
"""The extension of an image, by the bytes it begins with."""


Problem = tuple[Literal["refused", "undecodable"], str]
"""The kind of a rejection, and its reason."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column is what."""

    features: Any
    """A `datasets.Features`, which has all these columns."""
    image: str
    label: str | None
    key: str | None
    declared: tuple[str, ...] | None = None
    """The names of the classes that the recipe gives."""

    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes: those of the recipe, or where it gives none, those that the label's column has."""
        names = getattr(self.features[self.label], "names", None) if self.label else None
        return self.declared or (tuple(names) if names is not None else None)

    @property
    def number(self) -> str | None:
        """The column of the label, where it holds the numbers of classes."""
        return self.label if self.label is not None and is_whole(self.features[self.label]) else None


@dataclass(frozen=True, kw_only=True)
class FileShard:
    """One parquet or arrow file, as an `InputShard`."""

    name: str
    url: str
    builder: str
    columns: Columns
    own: OwnFiles
    """What its rows may name."""
    bounds: Bounds

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return self.url if _pinned(self.url) else fingerprint(self.url)

    def content_hash(self) -> str:
        """See `InputShard`."""
        return stored_sha256(self.url) or content_hash(self.url)

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`; a place where rows are lost is `Rejected` as damaged."""
        tables = file_tables(self.url, self.builder, self.columns.features, self.bounds)
        reader = RowReader(name=self.name, columns=self.columns, own=self.own, bounds=self.bounds, beside=self.url)
        return reader.read(tables)


@dataclass(frozen=True, kw_only=True)
class SliceShard:
    """One of the parts that `datasets` splits a set into, where these are not files; an `InputShard`."""

    name: str
    data: Any
    files: tuple[str, ...]
    """All files of the split, because a change in any of them may have changed this part."""
    columns: Columns
    own: OwnFiles
    """What its rows may name."""
    bounds: Bounds

    def fingerprint(self) -> str:
        """See `InputShard`; it covers all files of the split."""
        known = [f"{f} {'' if _pinned(f) else fingerprint(f)}" for f in self.files]
        return hashlib.sha256("\n".join(known).encode()).hexdigest()

    def content_hash(self) -> str:
        """See `InputShard`; it reads the whole part."""
        digest = hashlib.sha256()
        for item in self.read():
            if isinstance(item, Sample):
                parts = {"key": item.key.encode(), "image": item.image, **item.members}
            else:
                parts = {"key": item.key.encode(), "reason": item.reason.encode(), **item.members}
            for name, content in parts.items():
                digest.update(f"{name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`; where the part breaks off, the rest is `Rejected` as damaged."""
        local = not any("://" in file for file in self.files)
        tables = stream_tables(self.data.with_format("arrow"), self.columns.features, self.bounds, local=local)
        return RowReader(name=self.name, columns=self.columns, own=self.own, bounds=self.bounds).read(tables)


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Makes samples of the rows of a shard."""

    name: str
    """Name of the shard."""
    columns: Columns
    own: OwnFiles
    bounds: Bounds
    beside: str | None = None
    """The file that the rows come from, where it is one: relative names are looked up beside it."""

    @cached_property
    def schema(self) -> Any:
        """The `pyarrow.Schema` of all columns."""
        return self.columns.features.arrow_schema

    @cached_property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes; see `Columns.label_names`."""
        return self.columns.label_names()

    def read(self, tables: Iterable[Any]) -> Iterator[Sample | Rejected]:
        """Yields what `tables` hold; see `file_tables`."""
        index, seen = 0, set[str]()
        for table in tables:
            if isinstance(table, Lost):
                yield self._lost(table, index)
                index += table.rows or 0
            else:
                yield self._sample(table, index, seen)
                index += 1

    def _sample(self, table: Any, index: int, seen: set[str]) -> Sample | Rejected:
        import pyarrow as pa

        columns, origin, key = self.columns, f"{self.name}:row {index}", f"{self.name}-{index:06d}"
        if isinstance(table, BadRow):
            return Rejected(key=key, reason=table.reason, kind="undecodable", origin=origin)
        try:
            row = table.to_pylist()[0]
            image, problem = self._embed_images(row)
            members = row_to_members(row, self.schema, columns.image, columns.number)
        except (ValueError, ArithmeticError, pa.ArrowException) as error:  # no UTF-8, a date that Python has not, …
            reason = f"the row cannot be read ({first_line(error)})"
            return Rejected(
                key=key, reason=reason, kind="undecodable", origin=origin, members=_stored(table, columns.image)
            )
        kept = members if image is None else {"image": image, **members}
        if image is None or problem is not None:
            kind, reason = problem or ("undecodable", f"column {columns.image!r} is null")
            return Rejected(key=key, reason=reason, kind=kind, origin=origin, members=kept)
        if columns.key is not None:
            key = "" if row[columns.key] is None else str(row[columns.key])
        refusal = _key_problem(key, seen)
        seen.add(key)
        if refusal is not None:
            return Rejected(key=key, reason=refusal, kind="refused", origin=origin, members=kept)
        label = value_label(row[columns.label], self.names) if columns.label else NO_LABEL
        return Sample(
            key=key,
            shard=self.name if columns.key else "",
            image=image,
            image_ext=_extension(image, row[columns.image]["path"]),
            label=label.number,
            unread=label.unread,
            members=members,
            origin=origin,
        )

    def _lost(self, lost: Lost, index: int) -> Rejected:
        which = f"the rows from {index} on are" if lost.rows is None else f"{lost.rows} rows from {index} on are"
        return Rejected(
            key=f"{self.name}-{index:06d}",
            reason=f"{lost.place} is damaged: {which} lost ({lost.cause})",
            kind="damaged",
            origin=f"{self.name}:row {index}",
        )

    def _embed_images(self, row: HubRow) -> tuple[bytes | None, Problem | None]:
        """Reads the files that `row` only names, in every image column of it, in place.

        Returns (bytes of the main image or None, why an image cannot be had or None).
        """
        from datasets import Image

        problem: Problem | None = None
        for column, feature in self.columns.features.items():
            value = row[column]
            if not isinstance(feature, Image) or value is None or value["bytes"] is not None:
                continue
            row[column], path = None, value["path"]
            if path is None:
                continue
            try:
                found = self.own.read(path, self.beside, self.bounds.member_bytes)
                row[column] = {"bytes": found, "path": PurePosixPath(path).name}
            except Outside as error:
                problem = "refused", f"column {column!r}: {error}"
            except FileNotFoundError:
                problem = "undecodable", f"column {column!r}: file {path!r} is missing"
            except Unreachable:
                raise
            except OSError as error:
                problem = "undecodable", f"column {column!r}: file {path!r} cannot be read ({error.strerror})"
        main = row[self.columns.image]
        return (None if main is None else bytes(main["bytes"])), problem


def _stored(table: Any, column: str) -> dict[str, bytes]:
    """The image that a row holds itself, to be kept where the rest of the row cannot be read."""
    content = table.column(column).combine_chunks().field("bytes")[0].as_py()
    return {} if content is None else {"image": content}


def _extension(image: bytes, path: str | None) -> str:
    for magic, extension in MAGIC.items():
        if image.startswith(magic):
            return extension
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    suffix = PurePosixPath(path or "").suffix.lstrip(".").lower()
    return suffix if suffix in IMAGE_EXTENSIONS else "image"


def _key_problem(key: str, seen: set[str]) -> str | None:
    if not key or unsafe(key):
        return f"the key column holds {key!r}, which cannot name a sample"
    return f"duplicate key {key!r} in this shard" if key in seen else None


def is_whole(feature: Any) -> bool:
    """Whether a feature holds whole numbers, or classes by their numbers."""
    from datasets import ClassLabel, Value

    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "int" in feature.dtype)


def _pinned(url: str) -> bool:
    """A hub file at a commit never changes."""
    return re.match(r"hf://[^@]+@[0-9a-f]{40}/", url) is not None
