"""A place that holds a job: what its ledger needs of a disk or of an object store, and of no other kind of place.

Everything is put whole: whoever lists or reads a place sees a file complete or not at all. Nothing is renamed, appended
to or written in the middle.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.streams.file_systems import why_not_shared
from pipeline.streams.files import Stored, publish, sync_folder
from pipeline.streams.private import make_private_folder

LOCK = "lock"
"""The file in a folder of work in progress that a process holds, so that no other works on the same job."""
PRIVATE = ("faces", "quarantine")
"""Folders of a store that show people; on a disk they are their owner's alone."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file in a store, as a listing tells of it."""

    path: str
    """The path below the root of the store, with slashes."""
    bytes: int
    """How large it is; −1 for a link, a pipe and whatever else is no file."""
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

    @property
    def parts(self) -> Path:
        """A folder of this machine for work in progress, from which `put_file` takes what is finished."""
        ...

    def url(self, path: str) -> str:
        """What opens a file with `open_url`."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Puts a small file, in the place of one that is there."""
        ...

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Puts a small file, unless there is one, at once for all who try; says whether this call has put it.

        The content is this caller's alone, so that an answer that was lost can be told from somebody else's file.
        Raises `UserError` where the store cannot tell (see `exclusive`).
        """
        ...

    def put_file(self, part: Path, path: str) -> Stored:
        """Moves a finished local file into the store, in the place of one that is there. Returns what was stored.

        It is safe there when this returns: on the disk, or acknowledged by the object store with the same checksum.
        """
        ...

    def put_new_files(self, parts: Mapping[str, Path]) -> str | None:
        """Moves finished local files into the store by their paths, none of them in the place of another.

        Returns the path of a file that was there, and then none is moved; None where all are.
        """
        ...

    def held(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths at which there is something."""
        ...

    def read(self, path: str) -> bytes | None:
        """The content of a small file; None where there is none."""
        ...

    def fetch(self, path: str) -> Path | None:
        """A file as one of this machine, which may be a copy until the process ends; None where there is none."""
        ...

    def list(self, folder: str) -> Iterator[Entry]:
        """Yields the files below a folder, at any depth, in no order, and none for a folder that is not there.

        Work in progress is never among them.
        """
        ...

    def top(self) -> set[str]:
        """The names of all files and folders directly below the root."""
        ...

    def delete(self, path: str) -> None:
        """Removes a file, if it is there, and the folders that are empty then, but for those directly below the root.

        Raises `UserError` for a file that lies outside of the root, behind a link.
        """
        ...

    def clear(self, folder: str) -> None:
        """Removes all files below a folder."""
        ...

    def sweep(self) -> None:
        """Removes work in progress that killed processes have left; nobody else may be at work here."""
        ...

    def exclusive(self) -> str | None:
        """Why `put_if_absent` cannot be trusted here, as a part of a sentence; None where it can. It may try it out."""
        ...


class DiskStore:
    """A folder of this machine, or one that several machines share: a part, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path, parts: Path) -> None:
        """`parts` lies on the same file system and holds work in progress."""
        self.root, self._parts = root, parts

    @property
    def shown(self) -> str:
        """See `Store`."""
        return str(self.root)

    @property
    def local(self) -> Path | None:
        """See `Store`."""
        return self.root

    @property
    def parts(self) -> Path:
        """See `Store`."""
        return self._parts

    def url(self, path: str) -> str:
        """See `Store`."""
        return str(self.root / path)

    def put(self, path: str, content: bytes) -> None:
        """See `Store`."""
        part, final = self._part(content), self._ready(path)
        if _is_private(path):
            part.chmod(0o600)
        os.replace(part, final)
        sync_folder(final.parent)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """See `Store`. A hard link is made, which is atomic on every POSIX file system, NFS among them."""
        part, final = self._part(content), self._ready(path)
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
        final = self._ready(path)
        if _is_private(path):
            part.chmod(0o600)
        return publish(part, final)

    def put_new_files(self, parts: Mapping[str, Path]) -> str | None:
        """See `Store`. `os.replace` alone would overwrite what another process was faster to write."""
        claimed = list[Path]()
        for path, part in parts.items():
            final = self._ready(path)
            try:
                os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            except FileExistsError:
                for made in claimed:
                    made.unlink()
                return path
            claimed.append(final)
            os.replace(part, final)
        for folder in sorted({folder for final in claimed for folder in final.parents}):
            if folder.is_relative_to(self.root) and folder != self.root:
                sync_folder(folder)
        return None

    def held(self, paths: Iterable[str]) -> set[str]:
        """See `Store`; a link that leads nowhere is something, too."""
        return {path for path in paths if os.path.lexists(self.root / path)}

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def fetch(self, path: str) -> Path | None:
        """See `Store`: the file itself."""
        return self.root / path if (self.root / path).is_file() else None

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
                yield Entry(path=path, bytes=found.st_size if stat.S_ISREG(found.st_mode) else -1, mark=mark)

    def top(self) -> set[str]:
        """See `Store`."""
        return {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()

    def delete(self, path: str) -> None:
        """See `Store`."""
        file = self.root / path
        if not real(file.parent).is_relative_to(real(self.root)):
            raise UserError(f"{file} lies outside of the job's folder, behind a link; nothing there is removed")
        file.unlink(missing_ok=True)
        for folder in file.parents:
            if not folder.exists():  # a crash came before it was made
                continue
            if self.root in (folder, folder.parent) or not folder.is_relative_to(self.root) or any(folder.iterdir()):
                break
            folder.rmdir()

    def clear(self, folder: str) -> None:
        """See `Store`; the folder goes, too."""
        if (self.root / folder).exists():
            shutil.rmtree(self.root / folder)

    def sweep(self) -> None:
        """See `Store`. The lock stays."""
        for left in self._parts.iterdir():
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def exclusive(self) -> str | None:
        """See `Store`."""
        self._parts.mkdir(parents=True, exist_ok=True)
        return why_not_shared(self._parts)

    def _ready(self, path: str) -> Path:
        """The file at a path, in a folder that is there."""
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        if _is_private(path):
            make_private_folder(self.root / path.partition("/")[0])
            make_private_folder(final.parent)
        return final

    def _part(self, content: bytes) -> Path:
        self._parts.mkdir(parents=True, exist_ok=True)
        part = self._parts / uuid4().hex
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return part


def make_private(store: Store) -> None:
    """Makes the folder of a job that shows people its owner's alone; who may read in a bucket is for others to say."""
    if store.local is not None:
        make_private_folder(store.local)


def _is_private(path: str) -> bool:
    return path.partition("/")[0] in PRIVATE
