"""A folder of images as input: its first folders are the classes, and files of the same name belong together."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from pipeline.errors import UserError
from pipeline.listing import real, unreadable, walk
from pipeline.media.records import Rejected, Sample
from pipeline.section import LocalPath, Section
from pipeline.streams.bounds import Bounds
from pipeline.streams.columns import LABEL_MEMBER
from pipeline.streams.contract import InputStream
from pipeline.streams.files import content_hash, fingerprint
from pipeline.streams.names import safe_component, unsafe
from pipeline.streams.shard_names import FIRST, cut_name, cuts
from pipeline.streams.shards import IMAGE_EXTENSIONS


class FolderInput(Section):
    """Reads every image below `path`, sorted by path.

    A key is the path below the folder without the last extension. `cat/001.txt` beside `cat/001.jpg` becomes its member
    `txt`. A file belongs to the longest image name that fits (`a.b.json` belongs to `a.b.jpg`, else to `a.jpg`). Of two
    images that differ only in their extension, the second is rejected as a duplicate.

    Skipped are hidden files and folders, symbolic links to folders, links to files outside the folder, pipes and
    devices, and files that are no images and share their name with none.
    """

    format: Literal["folder"] = "folder"
    path: LocalPath
    """The folder that is read."""
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    """What counts as an image, in upper or lower case; in a recipe with a section `video`, by default `mp4`, too."""
    bounds: Bounds = Bounds()
    """How much of a folder may be held at a time."""
    shard_size: int = Field(default=1000, ge=1)
    """Images in a shard, on average. Shards are cut so that a file more or less changes one of them, not all behind
    it; see `cuts`."""
    labels: Literal["directories", "none"] = "directories"
    """With `directories`, the classes are the first folders that hold images, numbered in sorted order as torchvision
    and `imagefolder` do; images directly in `path` have no label."""

    @field_validator("extensions")
    @classmethod
    def _plain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in value)

    def open(self) -> InputStream:
        """Lists the images.

        Raises `UserError` where the folder is missing or holds none, or where a folder in it cannot be read: its images
        would be missing, and the classes after it would get other numbers.
        """
        root = Path(self.path)
        if not os.path.isdir(root):
            raise UserError(f"input.path: {self.path!r} is not a folder; a folder of images is expected")
        entries = _entries(list(_files(root)), self.extensions)
        if not entries:
            known = ", ".join(self.extensions)
            raise UserError(f"input.path: no image in {self.path!r} (extensions: {known})")
        names: tuple[str, ...] | None = None
        if self.labels == "directories":
            names = tuple(sorted({e.key.split("/")[0] for e in entries if "/" in e.key})) or None
        starts = cuts([entry.image for entry in entries], self.shard_size)
        shards = []
        for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
            part = cut_name(entries[start].image) if start else FIRST
            name = safe_component(f"{real(root).name}-{part}")
            members = tuple(entries[start:end])
            shards.append(FolderShard(name=name, root=root, entries=members, label_names=names, bounds=self.bounds))
        return InputStream(shards=shards, label_names=names, places=(f"{root}/**",))


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """One image, with paths below the folder."""

    key: str
    image: str
    sidecars: tuple[str, ...]
    """Paths of the files that belong to it."""
    duplicate: bool
    """Whether an image before it has the same key."""


@dataclass(frozen=True, kw_only=True)
class FolderShard:
    """Some successive images of a folder, as an `InputShard`."""

    name: str
    root: Path
    entries: tuple[ListedImage, ...]
    label_names: tuple[str, ...] | None
    bounds: Bounds

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return self._digest(fingerprint)

    def content_hash(self) -> str:
        """See `InputShard`."""
        return self._digest(content_hash)

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`; bad and duplicate images are `Rejected`."""
        for entry in self.entries:
            yield self._read(entry)

    def _read(self, entry: ListedImage) -> Sample | Rejected:
        key, extension = entry.key, PurePosixPath(entry.image).suffix[1:]
        if not _printable(entry.image):
            shown = entry.key.encode(errors="backslashreplace").decode()
            return _reject(shown, f"unsafe file name {shown!r}", "refused", shown, {})
        members: dict[str, bytes] = {}
        label = None
        if self.label_names is not None and "/" in key:
            label = self.label_names.index(key.split("/")[0])
            members[LABEL_MEMBER] = str(label).encode()
        if len(entry.sidecars) >= self.bounds.sample_members:
            problem = (
                f"{len(entry.sidecars) + 1} files; input.bounds.sample_members allows {self.bounds.sample_members}"
            )
            return _reject(key, f"it has {problem}", "undecodable", entry.image, members)
        try:
            image = self._bytes(entry.image, 0)
            size = len(image)
            for sidecar in entry.sidecars:
                members[sidecar[len(key) + 1 :]] = content = self._bytes(sidecar, size)
                size += len(content)
        except OSError as error:
            return _reject(key, f"file cannot be read ({error})", "undecodable", entry.image, members)
        if entry.duplicate:
            kept = {extension: image, **members}
            reason = f"duplicate key {key!r}: another image has this name"
            return _reject(key, reason, "refused", entry.image, kept)
        return Sample(key=key, image=image, image_ext=extension, label=label, members=members, origin=entry.image)

    def _bytes(self, path: str, before: int) -> bytes:
        """A file of a sample of which `before` bytes were read. Raises `OSError`, also where it is too large."""
        bounds = self.bounds
        most, name = min((bounds.member_bytes, "member_bytes"), (bounds.sample_bytes - before, "sample_bytes"))
        with open(self.root / path, "rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise OSError(errno.EFBIG, f"more than input.bounds.{name} allows, {getattr(bounds, name)} bytes", path)
        return content

    def _digest(self, of_file: Callable[[str], str]) -> str:
        digest = hashlib.sha256()
        for entry in self.entries:
            for path in (entry.image, *entry.sidecars):
                try:
                    found = of_file(str(self.root / path))
                except OSError:
                    found = "unreadable"
                digest.update(f"{path}\0{found}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def _files(root: Path) -> Iterator[str]:
    """Paths below `root` of every file that is not skipped by rule, with `/`."""
    inside = os.path.realpath(root)
    for folder, subfolders, files in walk(root):
        subfolders[:] = [f for f in subfolders if not f.startswith(".")]
        for file in files:
            path = Path(folder, file)
            try:
                linked_away = path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside)
                special = path.exists() and not path.is_file()
            except OSError as error:
                raise unreadable(error) from None
            if not (file.startswith(".") or linked_away or special):
                yield path.relative_to(root).as_posix()


def _entries(paths: Iterable[str], extensions: tuple[str, ...]) -> list[ListedImage]:
    paths = sorted(paths)
    images = [p for p in paths if PurePosixPath(p).suffix[1:].lower() in extensions]
    sidecars: dict[str, list[str]] = {_key(image): [] for image in images}
    for path in set(paths) - set(images):
        if (owner := _owner(path, sidecars)) is not None:
            sidecars[owner].append(path)
    entries, seen = [], set[str]()
    for image in sorted(images, key=lambda p: (_key(p), p)):
        key = _key(image)
        entries.append(ListedImage(key=key, image=image, sidecars=tuple(sorted(sidecars[key])), duplicate=key in seen))
        seen.add(key)
    return entries


def _owner(path: str, keys: Iterable[str]) -> str | None:
    """The longest key that `path` continues after a dot."""
    stem = path
    while "." in stem.rpartition("/")[2]:
        stem = _key(stem)
        if stem in keys:
            return stem
    return None


def _key(path: str) -> str:
    return path.rpartition(".")[0]


def _printable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not unsafe(path)


def _reject(
    key: str, reason: str, kind: Literal["refused", "undecodable"], origin: str, members: dict[str, bytes]
) -> Rejected:
    return Rejected(key=key, reason=reason, kind=kind, origin=origin, members=members)
