"""The rows of a streamed Hugging Face data set as samples, with image bytes as they are stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from pipeline.media.records import Rejected, Sample
from pipeline.streams.columns import HubRow, row_to_members
from pipeline.streams.files import content_hash, fingerprint, is_damage, open_url, stored_sha256
from pipeline.streams.names import unsafe
from pipeline.streams.shards import IMAGE_EXTENSIONS

READ_AHEAD_ROWS = 64
"""Rows that are read together."""

MAGIC = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}
"""The extension of an image, by the bytes it begins with."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column is what."""

    features: Any
    """A `datasets.Features`, which has all these columns."""
    image: str
    label: str | None
    key: str | None

    def label_names(self) -> tuple[str, ...] | None:
        """The names of the classes, where the label's column states them."""
        names = getattr(self.features[self.label], "names", None) if self.label else None
        return tuple(names) if names is not None else None


@dataclass(frozen=True, kw_only=True)
class FileShard:
    """One parquet or arrow file, as an `InputShard`."""

    name: str
    url: str
    builder: str
    columns: Columns
    local: bool

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return self.url if _pinned(self.url) else fingerprint(self.url)

    def content_hash(self) -> str:
        """See `InputShard`."""
        return stored_sha256(self.url) or content_hash(self.url)

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`."""
        return read_rows(self._tables(), self.name, self.columns, local=self.local)

    def _tables(self) -> Iterator[Any]:
        from datasets import load_dataset

        batch = {"batch_size": READ_AHEAD_ROWS} if self.builder == "parquet" else {}
        data = load_dataset(
            self.builder,
            data_files={"train": [self.url]},
            split="train",
            streaming=True,
            features=self.columns.features,
            **batch,
        )
        if self.builder == "parquet":
            data = data.reshard()  # by row group: the groups before a damaged one are read
        yield from data.with_format("arrow")


@dataclass(frozen=True, kw_only=True)
class SliceShard:
    """One of the parts that `datasets` splits a set into, where these are not files; an `InputShard`."""

    name: str
    data: Any
    files: tuple[str, ...]
    """All files of the split, because a change in any of them may have changed this part."""
    columns: Columns
    local: bool

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
        """See `InputShard`."""
        return read_rows(self.data.with_format("arrow"), self.name, self.columns, local=self.local)


def read_rows(tables: Any, name: str, columns: Columns, *, local: bool) -> Iterator[Sample | Rejected]:
    """Yields the samples of `tables`, Arrow tables of one row each. Damage ends the shard with one `Rejected`."""
    rows, seen = iter(tables), set[str]()
    for index in count():
        origin, key = f"{name}:row {index}", f"{name}-{index:06d}"
        try:
            table = next(rows, None)
        except Exception as error:
            if not _is_damage(error, local=local):
                raise
            reason = f"the file is damaged: no rows from {index} on ({_first_line(error)})"
            yield Rejected(key=key, reason=reason, kind="undecodable", origin=origin)
            return
        if table is None:
            return
        try:
            row = table.to_pylist()[0]
        except ValueError as error:
            reason = f"the row cannot be read ({_first_line(error)})"
            yield Rejected(key=key, reason=reason, kind="undecodable", origin=origin)
            continue
        image, problem = _embed_images(row, columns, local=local)
        members = row_to_members(row, columns.features, columns.image, columns.label)
        if image is None or problem is not None:
            reason = problem or f"column {columns.image!r} is null"
            kept = members if image is None else {"image": image, **members}
            yield Rejected(key=key, reason=reason, kind="undecodable", origin=origin, members=kept)
            continue
        if columns.key is not None:
            key = "" if row[columns.key] is None else str(row[columns.key])
        problem = _key_problem(key, seen)
        seen.add(key)
        if problem is not None:
            kept = {"image": image, **members}
            yield Rejected(key=key, reason=problem, kind="refused", origin=origin, members=kept)
            continue
        yield Sample(
            key=key,
            image=image,
            image_ext=_extension(image, row[columns.image]["path"]),
            label=row[columns.label] if columns.label else None,
            members=members,
            origin=origin,
        )


def _embed_images(row: HubRow, columns: Columns, *, local: bool) -> tuple[bytes | None, str | None]:
    """Reads the files that `row` only names, in every image column of it, in place.

    Returns (bytes of the main image or None, why an image cannot be read or None).
    """
    from datasets import Image

    problem = None
    for column, feature in columns.features.items():
        value = row[column]
        if not isinstance(feature, Image) or value is None or value["bytes"] is not None:
            continue
        if value["path"] is None:
            row[column] = None
            continue
        found = _read_image(value["path"], local=local)
        if isinstance(found, str):
            row[column], problem = None, f"column {column!r}: {found}"
            continue
        row[column] = {"bytes": found, "path": PurePosixPath(value["path"]).name}
    main = row[columns.image]
    return (None if main is None else bytes(main["bytes"])), problem


def _read_image(path: str, *, local: bool) -> bytes | str:
    """The file's bytes, or why they cannot be had. Only a local set may name files of this machine."""
    if not local and "://" not in path:
        return f"a remote data set may not name the local file {path!r}"
    try:
        with open_url(path) as file:
            return file.read()
    except FileNotFoundError:
        return f"file {path!r} is missing"
    except OSError as error:
        if "://" in path:
            raise
        return f"file {path!r} cannot be read ({error.strerror})"


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


def _is_damage(error: Exception, *, local: bool) -> bool:
    import pyarrow as pa

    return isinstance(error, pa.ArrowException) or is_damage(error, local=local)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _pinned(url: str) -> bool:
    """A hub file at a commit never changes."""
    return re.match(r"hf://[^@]+@[0-9a-f]{40}/", url) is not None
