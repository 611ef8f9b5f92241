"""A sealed release goes to an object store: a mark first, then its files, RELEASE.json last, then the mark goes.

Nothing there is ever renamed, so the mark (`MARK`) is what tells an unfinished release from somebody else's files.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UserError
from pipeline.release.manifest import SEAL
from pipeline.release.sealing import MARK
from pipeline.streams.copying import copy_down, files_below
from pipeline.streams.store import Store


def is_free(store: Store) -> bool:
    """Whether a release may be put there: nothing is there, or what an attempt left that was never sealed."""
    found = store.top()
    return not found or (MARK in found and SEAL not in found)


def download(store: Store, release: Path) -> None:
    """Copies a sealed release to a folder of this machine; of an unfinished one, nothing.

    Raises `UserError` for an object whose name leads out of its folder.
    """
    if store.held([SEAL]):
        copy_down(store, release, lambda path: path != MARK)


def upload(release: Path, store: Store) -> None:
    """Moves a sealed release out of a folder of this machine into a store.

    Where the same one is sealed there, it stays as it is. Each file is confirmed by its sha256 before RELEASE.json is
    put. Raises `UserError` where other files are there, and `OSError` where one could not be put: then there is no
    RELEASE.json, and the next upload begins anew.
    """
    sealed = store.read(SEAL)
    if sealed is None:
        _put(release, store)
    elif sealed != (release / SEAL).read_bytes():
        raise UserError(f"release.path: {store.shown} holds another release; name an empty folder")
    store.delete(MARK)


def _put(release: Path, store: Store) -> None:
    if not is_free(store):
        raise UserError(f"release.path: {store.shown} is not empty; name a folder that is, or none")
    store.sweep()
    store.put(MARK, b"")
    files = [path for path in files_below(release) if path != SEAL]
    for path in files:
        store.put_file(release / path, path)
    for left in [entry.path for entry in store.list("") if entry.path not in (*files, MARK)]:
        store.delete(left)
    store.put_file(release / SEAL, SEAL)
