"""Some images of a folder as a shard: each with its files, and with its class where folders or a member say it."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.media.records import Rejected, Sample
from pipeline.streams.bounds import Bounds
from pipeline.streams.columns import LABEL_MEMBER
from pipeline.streams.files import content_hash, fingerprint
from pipeline.streams.labels import NO_LABEL, Label, member_label
from pipeline.streams.listed import ListedImage
from pipeline.streams.names import unsafe

TWO_CLASSES = "its folder is one class, and its member cls says another; input.labels or input.label chooses"
"""Why a sample with two classes is refused."""


@dataclass(frozen=True, kw_only=True)
class FolderShard:
    """Some successive images of a folder, as an `InputShard`."""

    name: str
    root: Path
    entries: tuple[ListedImage, ...]
    label: str | None
    """The member that holds the class, where it is not a folder; see `FolderInput.label`."""
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
        key, origin = entry.key, entry.image or entry.key
        if not _printable(origin):
            shown = entry.key.encode(errors="backslashreplace").decode()
            return _reject(shown, f"unsafe file name {shown!r}", "refused", shown, {})
        members = dict(entry.given)
        own = None
        if self.label_names is not None and entry.label is not None:
            own = self.label_names.index(entry.label)
            members = {LABEL_MEMBER: b"%d" % own, **members}
        if entry.image is None:
            kind, reason = entry.problem or ("refused", "the image is not there")
            return _reject(key, reason, kind, origin, members)
        if len(entry.files) >= self.bounds.sample_members:
            problem = f"{len(entry.files) + 1} files; input.bounds.sample_members allows {self.bounds.sample_members}"
            return _reject(key, f"it has {problem}", "undecodable", origin, members)
        try:
            image = self._bytes(entry.image, 0)
            size = len(image)
            for extension, path in entry.files.items():
                members[extension] = content = self._bytes(path, size)
                size += len(content)
        except OSError as error:
            return _reject(key, f"file cannot be read ({error})", "undecodable", origin, members)
        extension = PurePosixPath(entry.image).suffix[1:]
        if entry.problem is not None:
            kind, reason = entry.problem
            return _reject(key, reason, kind, origin, {extension: image, **members})
        label = NO_LABEL
        if self.label is not None:
            label = member_label(members, self.label, self.label_names)
        elif own is not None:
            stated = {member: members.pop(member) for member in entry.files if member.lower() == LABEL_MEMBER}
            label, members[LABEL_MEMBER] = Label(own), b"%d" % own
            if member_label(stated, LABEL_MEMBER, self.label_names) not in (NO_LABEL, label):
                return _reject(key, TWO_CLASSES, "refused", origin, {extension: image, **members, **stated})
        return Sample(
            key=key, image=image, image_ext=extension, label=label.number, unread=label.unread, members=members,
            origin=origin,
        )  # fmt: skip

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
            for path in (entry.image or entry.key, *entry.files.values()):
                try:
                    found = of_file(str(self.root / path))
                except OSError:
                    found = "unreadable"
                digest.update(f"{path}\0{found}\n".encode(errors="surrogateescape"))
            for member, content in entry.given.items():
                digest.update(f"{member}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()


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
