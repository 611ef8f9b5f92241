"""What lies in folders of the user's: whatever cannot be listed is an error, never a gap."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import UserError


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`: (folder, names of folders in it, names of all else), links not followed; however deep it goes.

    Folders that the caller takes out of the list are skipped. Raises `UserError` for one that cannot be read.
    """
    waiting = [str(root)]
    while waiting:
        folder, folders, others = waiting.pop(), list[str](), list[str]()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else others).append(entry.name)
        except OSError as error:
            raise unreadable(error) from None
        yield folder, folders, others
        paths = (os.path.join(folder, name) for name in folders)
        waiting += [path for path in paths if not os.path.islink(path)]


def below(root: Path) -> Iterator[Path]:
    """All files, folders and links below a folder; links are not followed. Raises `UserError` as `walk` does."""
    for folder, folders, files in walk(root):
        for name in (*folders, *files):
            yield Path(folder, name)


def matching(pattern: str) -> Iterator[str]:
    """The files that match a glob (`*`, `?`, `[…]`, `**` for any folders), in no order.

    Raises `UserError` for a folder or link on the way that cannot be read.
    """
    path = Path(pattern)
    try:
        yield from (str(Path(p)) for p in _matching(path.anchor, path.parts[1:] if path.anchor else path.parts))
    except OSError as error:
        raise unreadable(error) from None


def real(path: str | Path) -> Path:
    """A path, absolute and with links followed as far as they lead: a link that leads to itself stays as it is."""
    return Path(os.path.realpath(path))


def magic(pattern: str) -> bool:
    """Whether a path is a glob."""
    return any(sign in pattern for sign in "*?[")


def unreadable(error: OSError) -> UserError:
    """The sentence for a file or folder that is there and cannot be read."""
    return UserError(
        f"{str(error.filename)[-200:]!r} cannot be read ({error.strerror}); without it the input is not complete"
    )


def _matching(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    first, *others = parts
    rest = tuple(others)
    if not magic(first):
        path = os.path.join(folder, first)
        if rest and _is(os.path.isdir, path):
            yield from _matching(path, rest)
        elif not rest and _is(os.path.isfile, path):
            yield path
        return
    if first == "**":
        for inside, _, _ in walk(Path(folder)):
            yield from _matching(inside, rest) if rest else ()
        return
    with os.scandir(folder or ".") as entries:
        found = [(entry, os.path.join(folder, entry.name)) for entry in entries]
    for entry, path in found:
        if fnmatchcase(entry.name, first):
            if rest and entry.is_dir():
                yield from _matching(path, rest)
            elif not rest and entry.is_file():
                yield path


def _is(what: Callable[[str], bool], path: str) -> bool:
    """`os.path.isdir` or `isfile`, but what cannot be asked is an error, and not a no."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return what(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False
