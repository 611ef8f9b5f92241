"""Files of a store as files of this machine, for whatever must open them by path; on a disk they are the files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from pipeline.streams.private import make_private_folder
from pipeline.streams.store import Store


@contextmanager
def edited(store: Store, path: str) -> Iterator[Path]:
    """A file of the store, which need not be there; what is written to it meanwhile is put into the store."""
    if store.local is not None:
        yield store.local / path
        return
    file = store.parts / uuid4().hex / Path(path).name
    file.parent.mkdir()
    if (copy := store.fetch(path)) is not None:
        os.replace(copy, file)
    yield file
    store.put_file(file, path)


class Mirror:
    """The files directly in a folder of a store whose names have one ending, as a private folder of this machine."""

    def __init__(self, store: Store, folder: str, ending: str) -> None:
        self._store, self._name, self._ending = store, folder, ending
        self._known = dict[str, tuple[str, int]]()
        self.folder = store.local / folder if store.local is not None else store.parts / "mirrored" / folder

    def pull(self) -> None:
        """Copies what has changed in an object store, and removes what is gone there."""
        if self._store.local is not None:
            return
        make_private_folder(self.folder)
        marks = self._marks()
        for name in [name for name in self._known if name not in marks]:
            (self.folder / name).unlink(missing_ok=True)
            del self._known[name]
        for name, mark in marks.items():
            if self._known.get(name, ("", 0))[0] != mark:
                copy = self._store.fetch(f"{self._name}/{name}")
                if copy is not None:
                    os.replace(copy, self.folder / name)
                    self._known[name] = mark, self._time(name)

    def push(self) -> None:
        """Puts what was written to the folder since into the store, and removes there what was removed."""
        if self._store.local is not None:
            return
        there = {file.name for file in self.folder.glob(f"[!.]*{self._ending}")}
        changed = {
            name: self._time(name) for name in sorted(there) if self._known.get(name, ("", 0))[1] != self._time(name)
        }
        for name in changed:
            part = self._store.parts / uuid4().hex
            shutil.copyfile(self.folder / name, part)
            self._store.put_file(part, f"{self._name}/{name}")
        for name in sorted(self._known.keys() - there):
            self._store.delete(f"{self._name}/{name}")
            del self._known[name]
        marks = self._marks() if changed else {}
        self._known |= {name: (marks.get(name, ""), time) for name, time in changed.items()}

    def _marks(self) -> dict[str, str]:
        found = {entry.path.removeprefix(f"{self._name}/"): entry.mark for entry in self._store.list(self._name)}
        return {name: mark for name, mark in found.items() if "/" not in name and name.endswith(self._ending)}

    def _time(self, name: str) -> int:
        return (self.folder / name).stat().st_mtime_ns
