"""The images of a folder, each with the files that belong to it by their names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

Problem = tuple[Literal["refused", "undecodable"], str]
"""The kind of a rejection, and its reason."""


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """One image, with paths below the folder."""

    key: str
    image: str | None
    """None for one that is named somewhere and is not there."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Paths of the files that belong to it, by the extension of the member that each becomes."""
    given: Mapping[str, bytes] = field(default_factory=dict)
    """Members that come out of files of many images, by extension."""
    label: str | None = None
    """The name of its class."""
    problem: Problem | None = None
    """Why it is no sample."""

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders that it lies in, from the first on."""
        return PurePosixPath(self.image or self.key).parts[:-1]

    def with_members(self, *, files: Mapping[str, str] = {}, given: Mapping[str, bytes] = {}) -> ListedImage:
        """The image with further members; where it has one of the same extension, that is its problem."""
        taken = {*self.files, *self.given} & {*files, *given}
        problem = self.problem or (("refused", f"two files say its member {min(taken)!r}") if taken else None)
        return replace(self, files={**self.files, **files}, given={**self.given, **given}, problem=problem)


def by_name(paths: Iterable[str], extensions: Container[str]) -> list[ListedImage]:
    """The images among `paths`, sorted by key; a file belongs to the longest image name that it continues after a dot.

    Of two images that differ only in their extension, the second has a problem.
    """
    paths = sorted(paths)
    images = [path for path in paths if extension_of(path) in extensions]
    files: dict[str, dict[str, str]] = {stem(image): {} for image in images}
    for path in sorted(set(paths) - set(images)):
        if (owner := _owner(path, files)) is not None:
            files[owner][path[len(owner) + 1 :]] = path
    entries, seen = [], set[str]()
    for image in sorted(images, key=lambda path: (stem(path), path)):
        key = stem(image)
        problem: Problem | None = None
        if key in seen:
            problem = "refused", f"duplicate key {key!r}: another image has this name"
        entries.append(ListedImage(key=key, image=image, files=files[key], problem=problem))
        seen.add(key)
    return entries


def stem(path: str) -> str:
    """A path without its last extension."""
    return path.rpartition(".")[0]


def extension_of(path: str) -> str:
    """The last extension, in lower case and without its dot."""
    return PurePosixPath(path).suffix[1:].lower()


def _owner(path: str, keys: Container[str]) -> str | None:
    """The longest key that `path` continues after a dot."""
    start = path
    while "." in start.rpartition("/")[2]:
        start = stem(start)
        if start in keys:
            return start
    return None
