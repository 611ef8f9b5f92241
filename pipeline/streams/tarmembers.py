"""The members of tar archives, header after header, in memory that does not depend on what the headers say."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.streams.bounds import Bounds
from pipeline.streams.compressed import Damage

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""
ZEROS = bytes(BLOCK)
MOST_ZEROS = 1 + (1 << 16) // BLOCK
"""Blocks of zeros at the end of an archive, at most: two, and what fills its last record, of up to 64 KiB."""
GLOBAL, GNU_NAME, GNU_LINK, GNU_SPARSE = tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, b"S"
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, GLOBAL, GNU_NAME, GNU_LINK)
"""Types of headers that tell of the next member or, where global, of all that follow."""
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
"""Types of regular files."""
WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Types of members that have no content, whatever their size says: links, devices, folders and pipes."""
CUT = "the file is cut off"


@dataclass(frozen=True)
class Member:
    """A header that is whole. Its content can be read before the next one is asked for."""

    name: str
    """Bytes that are no UTF-8 are surrogates."""
    size: int
    """Bytes of the content."""
    is_folder: bool
    is_file: bool
    """Whether it is a regular file, stored without holes."""


@dataclass(frozen=True)
class Lost:
    """A place where an unknown number of members is lost."""

    reason: str


@dataclass(frozen=True)
class End:
    """The end of an archive; another one may follow."""


class Blocks:
    """Pieces of a file, read by length. Damage ends them, as the end of the file does."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._piece, self._at = pieces, memoryview(b""), 0
        self.position = 0
        """Bytes that were read or skipped."""
        self.damage: str | None = None
        """What ended them, if not the end of the file."""

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, or fewer at the end."""
        content = io.BytesIO()
        for part in self._parts(size):
            content.write(part)
        return content.getvalue()

    def skip(self, size: int) -> bool:
        """Passes over `size` bytes, which are not kept, and tells whether there were as many."""
        return sum(map(len, self._parts(size))) == size

    def _parts(self, size: int) -> Iterator[memoryview]:
        while size and self._fill():
            part = self._piece[self._at : self._at + size]
            size -= len(part)
            self._at += len(part)
            self.position += len(part)
            yield part

    def _fill(self) -> bool:
        if self._at == len(self._piece):
            self._piece, self._at = memoryview(b""), 0
            try:
                self._piece = memoryview(next(self._pieces, b""))
            except Damage as error:
                self.damage = str(error)
        return self._at < len(self._piece)


class SeekableBlocks(Blocks):
    """A file that can be read anywhere, of which nothing is read that is skipped."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(iter(()))
        self._file, self._end = file, file.seek(0, io.SEEK_END)

    def read(self, size: int) -> bytes:
        self._file.seek(self.position)
        content = self._file.read(min(size, max(self._end - self.position, 0)))
        self.position += len(content)
        return content

    def skip(self, size: int) -> bool:
        self.position, wanted = min(self.position + size, self._end), self.position + size
        return self.position == wanted


@dataclass
class _Told:
    """What extended headers tell."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


class Archives:
    """One tar, or several behind each other."""

    def __init__(self, blocks: Blocks, bounds: Bounds) -> None:
        self._blocks, self._bounds = blocks, bounds
        self._always, self._once = _Told(), _Told()
        self._extended = 0
        """Bytes of extended headers since the last member."""

    def members(self) -> Iterator[Member | Lost | End]:
        """Yields what the headers tell, in order; the last item is `End` or `Lost`.

        Archives that follow each other are read on. Zeros end an archive where they are two blocks and what fills its
        last record, as tar programs write it; at the end of the file, without such filling, too. Anything else may be a
        part that was wiped: behind two blocks, with which some programs end an archive, reading goes on, and the place
        is told; behind others it ends.

        Behind a damaged header reading goes on only where the size that it states leads to a header that is whole,
        past no other one. Nothing is ever searched for, because the content of a member may be a tar, whose members
        are no samples; and where no size is stated, its content may begin there, unless it is of a type without. As
        the damaged header may have held the name of the next member, that one is lost, too. Where anything else stands
        in the place of a header, nothing more is read.
        """
        try:
            yield from self._members()
        except Damage as error:
            yield Lost(f"{self._blocks.damage or error}; nothing more is read")

    def _members(self) -> Iterator[Member | Lost | End]:
        """Raises `Damage` where nothing more can be read."""
        begin, zeros, nameless = 0, 0, False
        while True:
            start, block = self._blocks.position, self._blocks.read(BLOCK)
            if block == ZEROS:
                zeros += 1
                continue
            if zeros and not block.strip(b"\0"):
                if zeros > MOST_ZEROS:
                    raise Damage(f"the file ends in {zeros} blocks of zeros, more than the end of any archive")
                yield from self._end()
                if self._blocks.damage is not None:
                    raise Damage
                return
            if 2 <= zeros <= MOST_ZEROS and (start - begin) % tarfile.RECORDSIZE == 0:
                begin, zeros, nameless = start, 0, False
                yield from self._end()
            if zeros == 2 and is_header(block):
                begin, zeros = start, 0
                self._always, self._once = _Told(), _Told()
                yield Lost(f"an archive ends before byte {start} within a record, or a header was wiped there")
            if zeros:
                raise Damage(f"{zeros} blocks of zeros stand in the place of headers before byte {start}")
            if len(block) < BLOCK and start > begin:
                raise Damage(f"{CUT}: the end-of-archive marker is missing")
            if (info := _header(block)) is None:
                if (whole := self._next_whole(block)) is None:
                    raise Damage(_no_header(start, begin))
                info, block = whole
                nameless = True
                yield Lost(f"the header at byte {start} is damaged; its member and the next are lost")
            if info.type in EXTENDED:
                problem = self._extend(info)
                if problem is not None and not nameless:
                    nameless = True
                    yield Lost(f"the extended header at byte {start} {problem}; the member behind it is lost")
                continue
            member = self._member(info, block)
            end = self._blocks.position + _padded(member.size)
            if not nameless:
                yield member
            nameless = False
            self._skip(end - self._blocks.position)

    def _end(self) -> Iterator[Lost | End]:
        if self._once != _Told():
            yield Lost(f"the member that an extended header tells of is missing before byte {self._blocks.position}")
        self._always, self._once = _Told(), _Told()
        yield End()

    def _next_whole(self, damaged: bytes) -> tuple[tarfile.TarInfo, bytes] | None:
        """The header that a damaged one leads to, with its block."""
        digits = damaged[124:136].strip(b" \0")
        size = int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else 0
        if not size and not (digits and damaged[156:157] in WITHOUT_CONTENT):
            return None
        end = self._blocks.position + _padded(size)
        while (block := self._blocks.read(BLOCK)) and self._blocks.position <= end:
            if is_header(block):
                return None
        return None if (info := _header(block)) is None else (info, block)

    def _extend(self, info: tarfile.TarInfo) -> str | None:
        """Reads an extended header; returns why it cannot be used, or None."""
        self._extended += BLOCK + info.size
        if self._extended > self._bounds.header_bytes:
            self._skip(_padded(info.size))
            return f"has {self._extended} bytes (input.bounds.header_bytes: {self._bounds.header_bytes})"
        content = self._blocks.read(info.size)
        self._skip(_padded(info.size) - len(content))
        if info.type == GNU_NAME:
            self._once.name = _text(content.partition(b"\0")[0])
        elif info.type != GNU_LINK and not _read_pax(content, self._always if info.type == GLOBAL else self._once):
            return "is damaged"
        return None

    def _member(self, info: tarfile.TarInfo, block: bytes) -> Member:
        once, always = self._once, self._always
        self._once, self._extended = _Told(), 0
        name, size = once.name or always.name, info.size if always.size is None else always.size
        # a slash at the end is an old way to mark folders; it means nothing where a longer name was cut
        is_folder = name.endswith("/") if name and block[156:157] == tarfile.AREGTYPE else info.isdir()
        goes_on = block[482] if info.type == GNU_SPARSE else 0
        while goes_on:
            block = self._blocks.read(BLOCK)
            goes_on = block[504] if len(block) == BLOCK else 0
        return Member(
            name=name or info.name,
            size=0 if is_folder or info.type in WITHOUT_CONTENT else size if once.size is None else once.size,
            is_folder=is_folder,
            is_file=info.type in PLAIN and not (once.sparse or always.sparse),
        )

    def _skip(self, size: int) -> None:
        if not self._blocks.skip(size):
            raise Damage(CUT)


def is_header(block: bytes) -> bool:
    """Whether `block` is a whole header of a tar."""
    return _header(block) is not None


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return info if info.size >= 0 else None


def _no_header(start: int, begin: int) -> str:
    if start > begin:
        return f"the header at byte {start} is damaged"
    return f"more data follows the end-of-archive marker at byte {start}" if start else "the file is no tar archive"


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _read_pax(content: bytes, told: _Told) -> bool:
    """Notes what the records of a pax header tell; False where they are malformed."""
    content, at = content.rstrip(b"\0"), 0
    while at < len(content):
        digits, _, _ = content[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        keyword, equals, value = content[at + len(digits) + 1 : at + length].partition(b"=")
        if not equals or not value.endswith(b"\n") or at + length > len(content):
            return False
        value = value[:-1]
        if keyword.startswith(b"GNU.sparse."):
            told.sparse = True
        if keyword == b"GNU.sparse.name" or (keyword == b"path" and not told.sparse):
            told.name = _text(value)
        if keyword == b"size":
            if not value.isdigit() or len(value) > 20:
                return False
            told.size = int(value)
        at += length
    return True
