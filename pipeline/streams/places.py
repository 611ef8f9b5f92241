"""Which store a place is: a folder of this machine, or one in an object store."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import UserError
from pipeline.section import URL, place
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
