"""One oddity: how its input is laid, and what must become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import builders

Lay = Callable[[Path], Mapping[str, Any]]
"""Lays an input into a folder, and returns the section `input:` that reads it."""


@dataclass(frozen=True)
class Good:
    """A sample that must come out."""

    key: str
    image: bytes
    members: Mapping[str, bytes] = field(default_factory=dict)
    """All its other members, byte for byte."""
    label: int | None = None
    extension: str = "png"
    """The extension that its image has in the output."""
    shown: bytes | None = None
    """An image file with the pixels that must come out, where they are not those that Pillow reads in `image`."""


@dataclass(frozen=True)
class Bad:
    """A sample that must lie in the quarantine."""

    key: str
    kind: str
    word: str
    """A part of the reason."""
    members: Mapping[str, bytes] | None = None
    """All its members, where the case says so."""


@dataclass(frozen=True)
class Case:
    """An oddity and its ground truth."""

    name: str
    lay: Lay
    good: tuple[Good, ...] = ()
    bad: tuple[Bad, ...] = ()
    damaged: int = 0
    """Places where an unknown number of samples is lost."""
    error: tuple[str, ...] = ()
    """Words of the one sentence by which the job is refused."""
    unwritable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By output format: the keys of good samples that it cannot hold, and a part of the reason."""
    outputs: tuple[str, ...] = ("webdataset", "parquet", "folder")
    """The output formats that the truth holds for."""
    read_as: Mapping[str, Any] = field(default_factory=dict)
    """What our reader of tars must be told to read the output again."""

    def written(self, format: str) -> dict[str, Good]:
        """The samples that must come out in an output format, by key."""
        return {good.key: good for good in self.good if good.key not in self.unwritable.get(format, {})}

    def refused(self, format: str) -> list[Bad]:
        """The samples that must be in quarantine."""
        return [*self.bad, *(Bad(key, "refused", word) for key, word in self.unwritable.get(format, {}).items())]


def picture(seed: int) -> bytes:
    """A PNG of 8 × 8 pixels, another one for each seed."""
    return PICTURES[seed]


PICTURES = [builders.picture(seed) for seed in range(6)]


def members_of(number: int, key: str | None = None) -> list[tuple[str, bytes]]:
    """The members of a sound sample in a tar: image, label and text."""
    key = f"s{number}" if key is None else key
    return [(f"{key}.png", picture(number)), (f"{key}.cls", b"1"), (f"{key}.txt", b"text %d" % number)]


def sound(number: int, key: str | None = None) -> Good:
    """What must come out of `members_of`."""
    key = f"s{number}" if key is None else key
    return Good(key, picture(number), {"cls": b"1", "txt": b"text %d" % number}, 1)
