"""WebDataset tars in and out: members that share a key are one sample; names never touch the file system."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, cast

from pydantic import Field, field_validator

from pipeline.media.records import Rejected, Sample
from pipeline.section import Section
from pipeline.streams.bounds import Bounds
from pipeline.streams.compressed import Damage
from pipeline.streams.contract import InputStream, Unwritable
from pipeline.streams.files import (
    HashedReader,
    Stored,
    content_hash,
    expand_urls,
    fingerprint,
    open_url,
)
from pipeline.streams.labels import member_label
from pipeline.streams.names import Split, escape_dots, unsafe
from pipeline.streams.shard_names import read_places, shard_names
from pipeline.streams.store import Store
from pipeline.streams.tarorder import Keys, anywhere, check_order, gathered_groups
from pipeline.streams.tarstream import SHOWN, Group, Problem, read_groups, shown

CLIP_EXTENSIONS = ("mp4",)
"""Extensions of files that hold only clips; a GIF counts as an image."""
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif")
"""Extensions of image files."""
LONGEST_NAME = 4095
"""Bytes of the name of a member that is written, at most: no system opens a longer path."""


class WebDatasetInput(Section):
    """Reads tar files, local or by any fsspec URL."""

    format: Literal["webdataset"] = "webdataset"
    urls: tuple[str, ...] = Field(min_length=1)
    """One or many files; globs and braces are expanded. Each file is a shard."""
    image: str | None = None
    """The extension of the image member; by default the only one with an image extension, else the only .mp4."""
    label: str = "cls"
    """The member that holds the class, or `member:field` of a JSON member (`json:label`): its number, or its name where
    `label_names` has it. Several classes, or a weight for each, pass through."""
    label_names: tuple[str, ...] | None = None
    """The names of the classes, by number."""
    bounds: Bounds = Bounds()
    """How much of a tar may be held at a time."""
    unsorted: bool = False
    """Whether members of one sample may lie apart, as in a tar of all images and then all labels. With `true` each tar
    is looked through first; one that is compressed or on another machine is unpacked into a temporary file."""
    split: Split = "auto"
    """The dot at which a name's key ends: the `first` (webdataset's rule), the `last`, or with `auto` the first after
    which every part begins with a letter, so that `IMG.2020.01.jpg` keeps its key and `7.seg.png` its extension."""

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def open(self) -> InputStream:
        """Finds the files. Raises `UserError` for one that is not there."""
        urls = expand_urls(self.urls, most=self.bounds.files)
        names = shard_names(urls, self.urls)
        shards = [TarShard(url, name, self) for url, name in zip(urls, names, strict=True)]
        return InputStream(
            shards=shards, places=read_places(*self.urls, *urls), label_names=self.label_names, verbatim_names=True
        )


class TarShard:
    """One tar, as an `InputShard`."""

    def __init__(self, url: str, name: str, options: WebDatasetInput) -> None:
        self.url, self.name, self.options = url, name, options
        self._hash: str | None = None

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return fingerprint(self.url)

    def content_hash(self) -> str:
        """See `InputShard`."""
        return self._hash or content_hash(self.url)

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`; damaged and duplicate samples are `Rejected`.

        Raises `UserError` where members of one sample lie apart and the input is not `unsorted`: of a plain tar on this
        machine before the first sample, else when the second part of a sample comes.
        """
        options, keys = self.options, Keys(self.name)
        for key, members, problem in self._groups():
            origin, repeated = f"{self.name}:{key}", keys.repeated(key, None if problem else members)
            if problem is not None:
                yield Rejected(key=key, reason=problem.reason, kind=problem.kind, origin=origin, members=members)
            elif repeated:
                reason = f"duplicate key {shown(key)} in this shard"
                yield Rejected(key=key, reason=reason, kind="refused", origin=origin, members=members)
            else:
                yield _sample(key, members, self.name, options)

    def _groups(self) -> Iterator[tuple[str, Group, Problem | None]]:
        split, bounds = self.options.split, self.options.bounds
        with open_url(self.url) as file:
            if self.options.unsorted:
                try:
                    with anywhere(file, self.url, bounds) as tar:
                        yield from gathered_groups(tar, split, bounds)
                except Damage as error:
                    yield "", {}, Problem(str(error), "damaged")
                return
            if "://" not in self.url:
                check_order(file, self.name, split, bounds)
            hashed = HashedReader(file)
            yield from read_groups(cast(BinaryIO, hashed), split, bounds)
            self._hash = hashed.sha256()


class TarWriter:
    """Writes tars whose bytes can be reproduced: constant owner, mode and time, and members in the order given."""

    def __init__(self, *, store: Store, folder: str = "data", parts: Path, name: str, verbatim_names: bool) -> None:
        """The tar is written in `parts`, and goes to the `folder` of the store."""
        self._part, self._store, self._final = parts / f"{name}.tar", store, f"{folder}/{name}.tar"
        self._verbatim = verbatim_names
        self._tar = tarfile.open(self._part, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._keys = set[str]()

    def add(self, samples: Sequence[Sample]) -> None:
        """Writes the members of each sample, its image first; see `ShardWriter`.

        `Unwritable` are a second member of the image's extension, a key that the shard has, and names that would not
        be read again as they are.
        """
        keys, members = list[str](), dict[str, bytes]()
        for sample in samples:
            key = sample.key if self._verbatim else escape_dots(sample.key)
            if key in self._keys or key in keys:
                raise Unwritable(f"key {sample.key!r} is taken by another sample of this shard")
            if sample.image_ext in sample.members:
                raise Unwritable(
                    f"a member {sample.image_ext!r} stands beside the image; a tar needs another image format for the "
                    "output"
                )
            keys.append(key)
            members |= _named(key, {sample.image_ext: sample.image, **sample.members})
        self._keys.update(keys)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            self._tar.addfile(info, io.BytesIO(content))
            self._tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header for ever

    def commit(self) -> dict[str, Stored]:
        """Ends the tar and publishes it; see `ShardWriter`."""
        self._tar.close()
        return {self._final: self._store.put_file(self._part, self._final)}

    def abort(self) -> None:
        """Removes what was written so far."""
        with suppress(OSError):  # it writes what is left: the disk may be full
            self._tar.fileobj.close()
        self._part.unlink(missing_ok=True)


def _named(key: str, members: Group) -> dict[str, bytes]:
    """The members by their names in a tar. Raises `Unwritable` for one that reads as another, or as none."""
    named = {f"{key}.{extension}": content for extension, content in members.items()}
    for name, extension in zip(named, members, strict=True):
        if not key.rpartition("/")[2] or not extension or "/" in extension or unsafe(name):
            raise Unwritable(f"{name!r} cannot be the name of a member of a tar")
        try:
            size = len(name.encode(errors="surrogateescape"))
        except UnicodeEncodeError:
            raise Unwritable(f"the name {name!r} holds what no bytes stand for") from None
        if size > LONGEST_NAME:
            raise Unwritable(f"the name of a member has {size} bytes; a tar gets names of {LONGEST_NAME} at most")
    return named


def _sample(key: str, members: Group, shard: str, options: WebDatasetInput) -> Sample | Rejected:
    origin = f"{shard}:{key}"
    image_ext = options.image or find_image(members)
    if image_ext is None or image_ext not in members:
        found = ", ".join(members)[:SHOWN]
        reason = f"no image member, or more than one and none named by input.image (found: {found})"
        return Rejected(key=key, reason=reason, kind="undecodable", origin=origin, members=members)
    label = member_label(members, options.label, options.label_names)
    return Sample(
        key=key,
        shard=shard,
        image=members[image_ext],
        image_ext=image_ext,
        label=label.number,
        unread=label.unread,
        members={e: content for e, content in members.items() if e != image_ext},
        origin=origin,
    )


def find_image(members: Group) -> str | None:
    """The extension of the one image among the members: `jpg.png`, as a job calls it that finds its own place taken,
    before `png`, and that before `seg.png`; else of the one clip; else None.
    """
    images = [e for e in members if e.rpartition(".")[2].lower() in IMAGE_EXTENSIONS]
    images = images or [e for e in members if e.rpartition(".")[2].lower() in CLIP_EXTENSIONS]
    renamed = [e for e in images if e.count(".") == 1 and e.partition(".")[0].lower() in IMAGE_EXTENSIONS]
    plain = [e for e in images if "." not in e]
    candidates = renamed or plain or images
    return candidates[0] if len(candidates) == 1 else None
