"""Which store a place is: a folder of this machine, or one in an object store."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.section import URL, place
from pipeline.streams.files import file_system_at
from pipeline.streams.object_store import ObjectStore
from pipeline.streams.store import DiskStore, Store

PARTS = ".parts"
"""The folder of work in progress in a store on a disk."""


def open_store(where: str | os.PathLike[str], work: str = "") -> Store:
    """The store at a place, as `pipeline.section.Place` has it.

    On a disk, work in progress lies in the folder `work` below `PARTS`, apart from that of others. Raises
    `UserError` for a URL that can be none, whose protocol is unknown, or whose package is missing.
    """
    name = os.fspath(where)
    if not URL.match(name):
        return DiskStore(Path(name), Path(name) / PARTS / work)
    try:
        return ObjectStore(place(name))
    except ValueError as error:
        raise UserError(f"{name.partition('://')[0]}://…: {error}") from None


def is_remote(where: str | os.PathLike[str]) -> bool:
    """Whether a place lies in an object store."""
    return URL.match(os.fspath(where)) is not None


def true_place(where: str | os.PathLike[str]) -> Path:
    """A path that all names of a place have in common, by which one is known to lie in another.

    It is absolute, links followed; that of a place in an object store is relative, and opens nothing. Raises
    `UserError` for a URL whose protocol is unknown, or whose package is missing.
    """
    if not is_remote(where):
        return real(os.fspath(where))
    files, path = file_system_at(os.fspath(where))
    protocol = files.protocol if isinstance(files.protocol, str) else files.protocol[0]
    return Path(f"{protocol}:", path.strip("/"))
