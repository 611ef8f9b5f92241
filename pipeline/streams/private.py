"""Files and folders that show people: nobody but their owner may open them, whatever the umask says."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from pipeline.errors import UserError
from pipeline.streams.files import sync_folder

FORGOTTEN_SECONDS = 24 * 3600
"""A part that nobody has written to for so long belongs to a process that is gone."""


def make_private_folder(folder: Path) -> Path:
    """Makes a folder with mode 0700, also where it exists, and the folders above it as usual. Returns it.

    Raises `UserError` for a folder that belongs to somebody else, or that many users share, as /tmp is.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX:
        raise UserError(
            f"{folder} is not yours alone, and what is written there shows people; name a folder of its own"
        )
    os.chmod(folder, 0o700)
    return folder


def open_private(file: Path) -> BinaryIO:
    """Opens a file for writing, empty and with mode 0600, also where it exists. Links are not followed."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "wb")


def write_private(file: Path, content: bytes) -> None:
    """Writes a file with mode 0600; see `open_private`."""
    with open_private(file) as handle:
        handle.write(content)


@contextmanager
def private_part(file: Path) -> Iterator[BinaryIO]:
    """Opens what becomes `file`, mode 0600, when the block ends, and is removed where it ends by an error.

    Several processes may write one file at once: each has a part of its own, and the last one stays.
    """
    part = file.with_name(f".{uuid4().hex}.part")
    try:
        with open_private(part) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, file)
        sync_folder(file.parent)
    finally:
        part.unlink(missing_ok=True)


def clear_parts(folder: Path) -> None:
    """Removes what processes that are long gone have left unfinished in a folder."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > FORGOTTEN_SECONDS:
                part.unlink()


@contextmanager
def private_umask() -> Iterator[None]:
    """Within it, whatever this process and those that it starts make is their owner's alone (0600, 0700).

    It counts for all threads of the process.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
