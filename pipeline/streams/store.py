"""A place that holds a job: what its ledger needs of a disk or of an object store, and of no other kind of place.

Everything is put whole: whoever lists or reads a place sees a file complete or not at all. Nothing is renamed, appended
to or written in the middle.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pipeline.streams.files import Stored, publish, sync_folder


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file in a store, as a listing tells of it."""

    path: str
    """The path below the root of the store, with slashes."""
    bytes: int
    mark: str
    """Changes whenever the file is put again: size and times on a disk, the ETag or version in an object store."""


class Store(Protocol):
    """A root with files below it. All paths are relative to the root, with slashes, and were checked by the caller.

    What cannot be reached raises `OSError` after its tries (`Unreachable`), what is not allowed `UserError`.
    """

    @property
    def shown(self) -> str:
        """The root, as messages name it."""
        ...

    @property
    def local(self) -> Path | None:
        """The root as a folder of this machine; None for an object store."""
        ...

    def url(self, path: str) -> str:
        """What opens a file with `open_url`."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Puts a small file, in the place of one that is there."""
        ...

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Puts a small file, unless there is one, at once for all who try; says whether this call has put it.

        Raises `UserError` where the store cannot tell (see `exclusive`).
        """
        ...

    def put_file(self, part: Path, path: str) -> Stored:
        """Moves a finished local file into the store, in the place of one that is there. Returns what was stored.

        It is safe there when this returns: on the disk, or acknowledged by the object store with the same checksum.
        """
        ...

    def read(self, path: str) -> bytes | None:
        """The content of a small file; None where there is none."""
        ...

    def list(self, folder: str) -> Iterator[Entry]:
        """Yields the files below a folder, at any depth, in no order, and none for a folder that is not there.

        Work in progress is never among them.
        """
        ...

    def delete(self, path: str) -> None:
        """Removes a file, if it is there."""
        ...

    def exclusive(self) -> str | None:
        """Why `put_if_absent` cannot be trusted here, as a part of a sentence; None where it can. It may try it out."""
        ...


class DiskStore:
    """A folder of this machine, or one that several machines share: a part, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path, parts: Path) -> None:
        """`parts` lies on the same file system and holds work in progress."""
        self.root, self.parts = root, parts

    @property
    def shown(self) -> str:
        """See `Store`."""
        return str(self.root)

    @property
    def local(self) -> Path | None:
        """See `Store`."""
        return self.root

    def url(self, path: str) -> str:
        """See `Store`."""
        return str(self.root / path)

    def put(self, path: str, content: bytes) -> None:
        """See `Store`."""
        self.put_file(self._part(content), path)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """See `Store`. A hard link is made, which is atomic on every POSIX file system, NFS among them."""
        part, final = self._part(content), self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(part, final)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        sync_folder(final.parent)
        return True

    def put_file(self, part: Path, path: str) -> Stored:
        """See `Store`."""
        return publish(part, self.root / path)

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> Iterator[Entry]:
        """See `Store`. Names that begin with a dot are work in progress."""
        for place, folders, files in os.walk(self.root / folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if name.startswith("."):
                    continue
                try:
                    found = os.lstat(os.path.join(place, name))
                except FileNotFoundError:  # another worker has removed it since
                    continue
                path = Path(place, name).relative_to(self.root).as_posix()
                mark = f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"
                yield Entry(path=path, bytes=found.st_size, mark=mark)

    def delete(self, path: str) -> None:
        """See `Store`."""
        (self.root / path).unlink(missing_ok=True)

    def exclusive(self) -> str | None:
        """See `Store`."""
        return None

    def _part(self, content: bytes) -> Path:
        self.parts.mkdir(parents=True, exist_ok=True)
        part = self.parts / uuid4().hex
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return part
