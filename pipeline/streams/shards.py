"""WebDataset tars in and out: members that share a key are one sample; names never touch the file system."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.records import Rejected, Sample
from pipeline.streams.contract import InputStream
from pipeline.streams.files import content_hash, expand_urls, fingerprint, open_url, publish, shard_names

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif")
LARGEST_MEMBER = 1 << 28
END_OF_ARCHIVE = 1024
"""A complete tar ends with two zero blocks; one that was cut off does not."""

Split = Literal["auto", "first", "last"]
Group = dict[str, bytes]


class WebDatasetInput(BaseModel):
    """Tar files, local or by any fsspec URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["webdataset"] = "webdataset"
    urls: tuple[str, ...]
    """One or many; globs and braces are expanded."""
    image: str | None = None
    """Extension of the image member; by default the only one with an image extension."""
    label: str = "cls"
    """Member that holds the class number, or `member:field` of a JSON member (`json:label`)."""
    label_names: tuple[str, ...] | None = None
    split: Split = "auto"
    """Where a name's key ends: `first` dot (webdataset's rule), `last` dot, or `auto`: the first dot after which
    every part begins with a letter, so that `IMG.2020.01.jpg` keeps its key and `7.seg.png` its extension."""

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def open(self) -> InputStream:
        urls = expand_urls(self.urls)
        shards = [TarShard(url, name, self) for url, name in zip(urls, shard_names(urls), strict=True)]
        return InputStream(shards=shards, label_names=self.label_names, verbatim_names=True)


class TarShard:
    def __init__(self, url: str, name: str, options: WebDatasetInput) -> None:
        self.url, self.name, self.options = url, name, options

    def fingerprint(self) -> str:
        return fingerprint(self.url)

    def content_hash(self) -> str:
        return content_hash(self.url)

    def read(self) -> Iterator[Sample | Rejected]:
        seen: set[str] = set()
        with open_url(self.url) as file:
            for key, members, problem in _groups(file, self.options.split):
                origin = f"{self.name}:{key}"
                if problem is None and key in seen:
                    problem = f"duplicate key {key!r} in this shard"
                seen.add(key)
                if problem is None:
                    yield _sample(key, members, origin, self.options)
                else:
                    kind: Literal["refused", "undecodable"] = (
                        "refused" if problem.startswith("duplicate") else "undecodable"
                    )
                    yield Rejected(key=key, reason=problem, kind=kind, origin=origin, members=members)


class TarWriter:
    """Byte-reproducible: constant owner, mode and time; members in the order given."""

    def __init__(self, *, data: Path, parts: Path, name: str, verbatim_names: bool) -> None:
        self._part, self._final = parts / f"{name}.tar", data / f"{name}.tar"
        self._verbatim = verbatim_names
        self._tar = tarfile.open(self._part, "w", format=tarfile.PAX_FORMAT)

    def add(self, sample: Sample) -> None:
        key = sample.key if self._verbatim else escape_dots(sample.key)
        for extension, content in {sample.image_ext: sample.image, **sample.members}.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size, info.mode = len(content), 0o644
            self._tar.addfile(info, io.BytesIO(content))

    def commit(self) -> dict[str, str]:
        self._tar.close()
        return {self._final.name: publish(self._part, self._final)}

    def abort(self) -> None:
        self._tar.fileobj.close()  # type: ignore[union-attr]
        self._part.unlink(missing_ok=True)


def escape_dots(key: str) -> str:
    """Dots of the last path component as `%2E`: readers of webdataset end a key at its first dot."""
    folder, _, base = key.rpartition("/")
    escaped = base.replace("%", "%25").replace(".", "%2E")
    return f"{folder}/{escaped}" if folder else escaped


def split_name(name: str, rule: Split) -> tuple[str, str]:
    """Member name → (key with folders, extension without its leading dot); either may be empty."""
    folder, slash, base = name.rpartition("/")
    stem, *parts = base.split(".")
    if not parts:
        return name, ""
    if rule == "last":
        cut = len(parts) - 1
    elif rule == "first":
        cut = 0
    else:
        cut = len(parts) - 1
        while cut > 0 and re.fullmatch(r"[A-Za-z]\w*", parts[cut - 1]):
            cut -= 1
    return folder + slash + ".".join([stem, *parts[:cut]]), ".".join(parts[cut:])


def unsafe(name: str) -> bool:
    """Absolute, drive-lettered, or leading out of its folder; also control characters and backslashes."""
    return (
        name.startswith("/")
        or ".." in name.split("/")
        or re.search(r"^[A-Za-z]:|[\\\x00-\x1f\x7f]", name) is not None
    )


def _groups(file: BinaryIO, split: Split) -> Iterator[tuple[str, Group, str | None]]:
    """(key, members, what is wrong or None) for each run of members that share a key."""
    tail = _Tail(file)
    key, members, problem = "", Group(), None
    try:
        with tarfile.open(fileobj=tail, mode="r|*") as tar:
            for info in tar:
                if info.isdir():
                    continue
                new_key, extension = split_name(info.name, split)
                if members and (new_key != key or extension in members):
                    yield key, members, problem
                    members, problem = {}, None
                key = new_key
                problem = problem or _member_problem(info, new_key, extension)
                content = tar.extractfile(info) if info.isreg() and info.size <= LARGEST_MEMBER else None
                members[extension] = content.read() if content else b""
            while tail.read(1 << 20):
                pass
        if not tail.complete():
            raise tarfile.ReadError("the end-of-archive marker is missing")
    except (tarfile.ReadError, EOFError, zlib.error) as error:
        if members:
            yield key, members, f"the tar is cut off or damaged in or after this sample ({error})"
        else:
            yield "", {}, f"no tar archive, or damaged from the start ({error})"
        return
    if members:
        yield key, members, problem


def _member_problem(info: tarfile.TarInfo, key: str, extension: str) -> str | None:
    if unsafe(info.name):
        return f"unsafe member name {info.name!r}"
    if not info.isreg():
        return f"member {info.name!r} is no regular file"
    if info.size > LARGEST_MEMBER:
        return f"member {info.name!r} has {info.size} bytes; {LARGEST_MEMBER} are allowed"
    if not extension or not key.rpartition("/")[2]:
        return f"member name {info.name!r} has no key or no extension"
    return None


def _sample(key: str, members: Group, origin: str, options: WebDatasetInput) -> Sample | Rejected:
    image_ext = options.image or find_image(members)
    if image_ext is None or image_ext not in members:
        found = ", ".join(members)
        reason = f"no image member, or more than one and none named by input.image (found: {found})"
        return Rejected(key=key, reason=reason, kind="undecodable", origin=origin, members=members)
    return Sample(
        key=key,
        image=members[image_ext],
        image_ext=image_ext,
        label=read_label(members, options.label),
        members={e: content for e, content in members.items() if e != image_ext},
        origin=origin,
    )


def find_image(members: Group) -> str | None:
    """The one image extension; `png` before `seg.png`."""
    images = [e for e in members if e.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
    plain = [e for e in images if "." not in e]
    candidates = plain or images
    return candidates[0] if len(candidates) == 1 else None


def read_label(members: Group, where: str) -> int | None:
    """The class number in member `cls`, or in `json:field`; None where there is none."""
    member, _, field = where.partition(":")
    try:
        value = json.loads(members[member])
        if field:
            value = value[field]
    except (KeyError, ValueError, TypeError):
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Tail(io.RawIOBase):
    """Passes reads through and remembers the last bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._tail, self._compressed = file, b"", None

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        if self._compressed is None:
            self._compressed = chunk[:2] == b"\x1f\x8b" or chunk[:3] == b"BZh" or chunk[:4] == b"\xfd7zX"
        self._tail = (self._tail + chunk)[-END_OF_ARCHIVE:]
        return chunk

    def complete(self) -> bool:
        return bool(self._compressed) or not self._tail.strip(b"\0")
