"""Tar archives of unknown quality, read from front to back as groups of members that share a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple

from pipeline.streams.bounds import Bounds
from pipeline.streams.compressed import plain, unpacked
from pipeline.streams.names import Split, is_junk, split_name, unsafe
from pipeline.streams.tarmembers import BLOCK, Archives, Blocks, Lost, Member, is_header

Group = dict[str, bytes]
"""The members of a sample, by extension."""
SHOWN = 200
"""Characters of a name that a reason shows, at most."""


class Problem(NamedTuple):
    """Why a sample cannot be used, or what happened to the tar."""

    reason: str
    kind: Literal["undecodable", "damaged"]
    """The kind of `Rejected`."""


def read_groups(file: BinaryIO, split: Split, bounds: Bounds) -> Iterator[tuple[str, Group, Problem | None]]:
    """Yields (key, members, what is wrong or None) for each run of members that share a key.

    The tar may be compressed, in one of the ways of `unpacked`. Where it is damaged, an item of kind `damaged` without
    key and members tells so; `Archives.members` says when reading goes on behind it. A sample counts as complete once
    the header after it, or the end marker, has been read. Next to damage nobody knows that, so that the sample before
    it is `undecodable`, as is the first one behind it.

    Of a sample that is larger than `bounds` allow, nothing is kept. Members that are junk (see `is_junk`) are passed
    over, as folders are.
    """
    yield from groups_of(Blocks(plain(file) if is_plain(file) else unpacked(file)), split, bounds)


def is_plain(file: BinaryIO) -> bool:
    """Whether a file begins as a tar that is not compressed; it is rewound."""
    begins = is_header(file.read(BLOCK))
    file.seek(0)
    return begins


def groups_of(
    blocks: Blocks, split: Split, bounds: Bounds, *, contents: bool = True
) -> Iterator[tuple[str, Group, Problem | None]]:
    """As `read_groups`; without `contents` every member is empty, and is passed over."""
    sample, torn = None, False
    for found in Archives(blocks, bounds).members():
        if isinstance(found, Member):
            if found.is_folder or is_junk(found.name):
                continue
            key, extension = split_name(found.name, split)
            if sample is None or key != sample.key or extension in sample.members:
                if sample is not None:
                    yield sample.told()
                sample, torn = Run(key, "the tar is damaged before or in this sample" if torn else None), False
            sample.add(found, extension, blocks if contents else None, bounds)
            continue
        if sample is not None:
            if isinstance(found, Lost):
                sample.problem = sample.problem or "the tar is cut off or damaged in or after this sample"
            yield sample.told()
        if isinstance(found, Lost):
            yield "", {}, Problem(found.reason, "damaged")
        sample, torn = None, isinstance(found, Lost)


@dataclass
class Run:
    """Members that share a key."""

    key: str
    problem: str | None
    members: Group = field(default_factory=Group)
    size: int = 0
    """Bytes of members and their extensions."""
    too_large: bool = False

    def add(self, member: Member, extension: str, blocks: Blocks | None, bounds: Bounds) -> None:
        """Reads the content of a member, unless the sample is larger than allowed, or there is nothing to read from."""
        self.problem = self.problem or _member_problem(member, self.key, extension)
        if self.too_large:
            return
        self.size += member.size + len(extension)
        if (reason := self._excess(member, bounds)) is not None:
            self.problem, self.too_large, self.members = reason, True, {}
        else:
            self.members[extension] = blocks.read(member.size) if blocks and member.is_file else b""

    def _excess(self, member: Member, bounds: Bounds) -> str | None:
        if member.size > bounds.member_bytes:
            found, bound = f"member {shown(member.name)} has {member.size} bytes", "member_bytes"
        elif self.size > bounds.sample_bytes:
            found, bound = f"the sample has {self.size} bytes or more", "sample_bytes"
        elif len(self.members) == bounds.sample_members:
            found, bound = f"the sample has more than {len(self.members)} members", "sample_members"
        else:
            return None
        return f"{found}; allowed are {getattr(bounds, bound)} (input.bounds.{bound})"

    def told(self) -> tuple[str, Group, Problem | None]:
        return self.key, self.members, None if self.problem is None else Problem(self.problem, "undecodable")


def _member_problem(member: Member, key: str, extension: str) -> str | None:
    if unsafe(member.name):
        return f"unsafe member name {shown(member.name)}"
    if not member.is_file:
        return f"member {shown(member.name)} is not a regular file"
    if not extension or not key.rpartition("/")[2]:
        return f"member name {shown(member.name)} has no key or no extension"
    return None


def shown(name: str) -> str:
    """A name for a reason, in quotes."""
    return repr(name if len(name) <= SHOWN else name[:SHOWN] + "…")
