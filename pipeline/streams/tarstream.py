"""Tar archives of unknown quality, read from front to back as groups of members that share a key."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, cast

from pipeline.streams.files import is_damage
from pipeline.streams.names import Split, split_name, unsafe

LARGEST_MEMBER = 1 << 28
"""Bytes of a member, at most."""
SKIP = 1 << 20
"""Bytes that are read at a time behind the archive's end."""

Group = dict[str, bytes]
"""The members of a sample, by extension."""

OPENERS: dict[bytes, Callable[..., object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""Decompressors by magic number. tarfile's own check no sums, and stop at the first of several compressed members."""


def read_groups(file: BinaryIO, split: Split) -> Iterator[tuple[str, Group, str | None]]:
    """Yields (key, members, what is wrong or None) for each run of members that share a key.

    A sample counts as complete once the header after it has been read. In a tar that breaks off, the last sample is
    reported as damaged, because nobody can know whether more of it was to come.
    """
    key, members, problem = "", Group(), None
    begun = False
    try:
        with tarfile.open(fileobj=_decompressed(file), mode="r|", tarinfo=_StrictInfo) as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header for ever
                if info.isdir():
                    continue
                new_key, extension = split_name(info.name, split)
                if begun and (new_key != key or extension in members):
                    yield key, members, problem
                    members, problem = {}, None
                key, begun = new_key, True
                problem = problem or _member_problem(info, new_key, extension)
                if info.isreg() and 0 <= info.size <= LARGEST_MEMBER:
                    members[extension] = cast(IO[bytes], tar.extractfile(info)).read()
                else:
                    members[extension] = b""
            _expect_zeros(cast(BinaryIO, tar.fileobj))
    except Exception as error:
        if not is_damage(error):
            raise
        if begun:
            yield key, members, f"the tar is cut off or damaged in or after this sample ({error})"
        else:
            yield "", {}, f"no tar archive, or damaged from the start ({error})"
        return
    if begun:
        yield key, members, problem


class _StrictInfo(tarfile.TarInfo):
    """tarfile takes a bad header or a missing end marker for the end of the archive; here both are damage."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("the end-of-archive marker is missing") from None
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        if info.size < 0:
            raise tarfile.ReadError("negative size in a header")
        return info


def _decompressed(file: BinaryIO) -> BinaryIO:
    magic = file.read(6)
    file.seek(0)
    for prefix, opener in OPENERS.items():
        if magic.startswith(prefix):
            return cast(BinaryIO, opener(file, "rb"))
    return file


def _expect_zeros(file: BinaryIO) -> None:
    """After the end marker comes padding and nothing else: concatenated tars would lose their second half."""
    while rest := file.read(SKIP):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("more data follows the end-of-archive marker")


def _member_problem(info: tarfile.TarInfo, key: str, extension: str) -> str | None:
    if unsafe(info.name):
        return f"unsafe member name {info.name!r}"
    if not info.isreg() or info.sparse is not None:
        return f"member {info.name!r} is not a regular file"
    if info.size > LARGEST_MEMBER:
        return f"member {info.name!r} has {info.size} bytes; {LARGEST_MEMBER} are allowed"
    if not extension or not key.rpartition("/")[2]:
        return f"member name {info.name!r} has no key or no extension"
    return None
