"""Whole folders between an object store and this machine: files as they are, by their paths."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import UserError
from pipeline.streams.names import unsafe
from pipeline.streams.object_store import AT_ONCE
from pipeline.streams.store import Store


def copy_down(store: Store, folder: Path, wanted: Callable[[str], bool] = lambda path: True) -> None:
    """Copies the files of an object store whose paths are `wanted` to a folder of this machine.

    Raises `UserError` for an object whose name leads out of its folder, or that is gone meanwhile.
    """

    def copy(path: str) -> None:
        found = store.fetch(path) if not unsafe(path) else None
        if found is None:
            raise UserError(f"{store.shown}: {path!r} is the name of no file that could be copied")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        found.replace(folder / path)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(copy, [entry.path for entry in store.list("") if wanted(entry.path)]))


def files_below(folder: Path) -> list[str]:
    """The paths of all files below a folder, sorted; work in progress, whose names begin with a dot, is left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
