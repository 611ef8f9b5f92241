"""The order of a tar's members: whether those of one sample lie together, and how they are found where they don't."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, cast

from pipeline.errors import UserError
from pipeline.streams import remote
from pipeline.streams.bounds import Bounds
from pipeline.streams.compressed import unpacked
from pipeline.streams.names import Split, is_junk, split_name
from pipeline.streams.tarmembers import Archives, Lost, Member, SeekableBlocks
from pipeline.streams.tarstream import Group, Problem, Run, groups_of, is_plain, shown


class Keys:
    """The keys of a shard so far, by short stand-ins, because a key may be long."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._found = dict[bytes, frozenset[str] | None]()
        self._sets = dict[frozenset[str], frozenset[str]]()

    def repeated(self, key: str, extensions: Collection[str] | None) -> bool:
        """Takes note of a group, and tells whether another one had its key; `extensions` are None for a damaged one.

        Raises `UserError` where both are sound and have no extension in common: they are parts of one sample, and each
        would lack what the other has.
        """
        short = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()
        found = None if extensions is None else frozenset(extensions)
        if short not in self._found:
            self._found[short] = found and self._sets.setdefault(found, found)
            return False
        before = self._found[short]
        if found and before and not found & before:
            raise UserError(
                f"input shard {self._shard}: members of one sample do not lie together, and would be read as several "
                "samples; input.unsorted: true looks first where each lies"
            )
        return True


def check_order(file: BinaryIO, shard: str, split: Split, bounds: Bounds) -> None:
    """Raises `UserError` where the members of a sample lie apart, and reads headers only; `file` is rewound.

    Nothing is said of a compressed tar, where headers cannot be reached without all that lies before them.
    """
    if is_plain(file):
        keys = Keys(shard)
        for key, members, problem in groups_of(SeekableBlocks(file), split, bounds, contents=False):
            keys.repeated(key, None if problem else members)
        file.seek(0)


class _Place(NamedTuple):
    """Where the content of a member begins."""

    member: Member
    extension: str
    start: int


def gathered_groups(file: BinaryIO, split: Split, bounds: Bounds) -> Iterator[tuple[str, Group, Problem | None]]:
    """Yields as `read_groups`, for a tar whose members lie in any order: all with one key are one sample.

    The samples come in the order of their first members, of which only the places are held in memory; `file` is plain
    and can be read anywhere. Where it is damaged, nobody knows which samples are whole, and none is read. A sample with
    two members of one extension is `undecodable`.
    """
    blocks, places = SeekableBlocks(file), dict[str, list[_Place]]()
    for found in Archives(blocks, bounds).members():
        if isinstance(found, Lost):
            reason = f"{found.reason}; as the members of a sample may lie anywhere (input.unsorted), none is read"
            yield "", {}, Problem(reason, "damaged")
            return
        if isinstance(found, Member) and not found.is_folder and not is_junk(found.name):
            key, extension = split_name(found.name, split)
            places.setdefault(key, []).append(_Place(found, extension, blocks.position))
    for key, members in places.items():
        sample = Run(key, None)
        for member, extension, start in members:
            if extension in sample.members:
                sample.problem = f"the sample has two members with the extension {shown(extension)}"
                continue
            blocks.position = start
            sample.add(member, extension, blocks, bounds)
        yield sample.told()


@contextmanager
def anywhere(file: BinaryIO, url: str, bounds: Bounds) -> Iterator[BinaryIO]:
    """A tar that can be read anywhere: `file` itself where it is plain and on this machine, else its content, unpacked
    into a temporary file without a name.

    Raises `UserError` where that would exceed `bounds.unsorted_bytes`, and `Damage` as `unpacked` does.
    """
    if is_plain(file) and "://" not in url:
        yield file
        return
    with tempfile.TemporaryFile() as spool:
        for piece in unpacked(file):
            if spool.tell() + len(piece) > bounds.unsorted_bytes:
                raise UserError(
                    f"input.unsorted: {remote.shown(url)} holds more than input.bounds.unsorted_bytes allows, "
                    f"{bounds.unsorted_bytes} bytes; a plain tar on this machine needs no temporary file"
                )
            spool.write(piece)
        yield cast(BinaryIO, spool)
