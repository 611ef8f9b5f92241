"""Compressed files by their first bytes, whatever they are called: their content in pieces, from front to back."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol, cast

from pipeline.streams.files import CHUNK

PIECE = 1 << 16
"""Bytes of content that are unpacked at a time."""
SMALL = 512
"""The same where a decompressor that fails forgets what it had unpacked for that call."""
PACKED = 1 << 14
"""Compressed bytes that are handed over at a time, because zlib copies what it has not used yet."""
DICTIONARY = 1 << 28
"""Bytes of memory that an xz file may ask for, at most; `xz -9` asks for 65 MiB."""


class Damage(Exception):
    """The bytes of a file are broken or of a kind that is not read; storage that fails raises its own errors."""


class _Unpacker(Protocol):
    """One compressed stream, as in `bz2` and `lzma`."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """One gzip member with its checksum, like the objects of `bz2` and `lzma`, that forgets nothing where it fails."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._error: zlib.error | None = None

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._error is not None:
            raise self._error
        data, before = self._inner.unconsumed_tail + data, self._inner.copy()
        try:
            return self._inner.decompress(data, max_length)
        except zlib.error as error:
            self._error = error
        saved = bytearray()
        try:
            while byte := before.decompress(data, 1):
                saved += byte
                data = before.unconsumed_tail
        except zlib.error:
            if not saved:
                raise
        return bytes(saved)


UNPACKERS: dict[bytes, tuple[str, Callable[[], _Unpacker], int]] = {
    b"\x1f\x8b": ("gzip", _Gzip, PIECE),
    b"BZh": ("bzip2", bz2.BZ2Decompressor, SMALL),
    b"\xfd7zXZ\0": ("xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DICTIONARY), SMALL),
}
"""What the standard library reads, by magic number."""
ARROW = {b"\x28\xb5\x2f\xfd": "zstd", b"\x50\x2a\x4d\x18": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""What Arrow reads, by magic number; the second is a frame that zstd skips, with which `pzstd` begins."""
OTHERS = {
    b"\x1f\x9d": "compress (.Z) file",
    b"\x02\x21\x4c\x18": "lz4 file of the old kind",
    b"\x89LZO": "lzop file",
    b"LZIP": "lzip file",
    b"\x5d\0\0": "lzma file of the old kind",
    b"\xff\x06\0\0sNaPpY": "snappy file",
    b"7z\xbc\xaf\x27\x1c": "7z archive",
    b"PK\x03\x04": "zip archive",
    b"PK\x05\x06": "zip archive",
    b"Rar!": "rar archive",
    b"PAR1": "parquet file",
    b"ARROW1": "arrow file",
    b"\x89HDF": "HDF5 file",
    b"\x89PNG": "PNG image",
    b"\xff\xd8\xff": "JPEG image",
    b"version https://git-lfs": "pointer of Git LFS, without the file itself",
    b"<!DOCTYPE": "web page",
    b"<!doctype": "web page",
    b"<html": "web page",
}
"""What is often found in place of a tar or a text, by its first bytes."""
READ = "gzip, bzip2, xz, zstd or lz4"
"""What is read, for people."""


def unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Yields the content of `file`, unpacked where it is compressed, in pieces that are not empty.

    Files of several compressed members are read to their end; zeros between and behind members are padding.
    Raises `Damage` where the file is cut off or broken, after all that could be unpacked, and where it is an archive
    or a compressed file of another kind.
    """
    start = file.read(32)
    file.seek(0)
    for magic, kind in OTHERS.items():
        if start.startswith(magic):
            raise Damage(f"the file is a {kind}; it may be plain, or compressed with {READ}")
    for magic, (kind, new, at_once) in UNPACKERS.items():
        if start.startswith(magic):
            yield from _unpacked(file, kind, new, at_once)
            return
    for magic, codec in ARROW.items():
        if start.startswith(magic):
            yield from _by_arrow(file, codec)
            return
    yield from plain(file)


def plain(file: BinaryIO) -> Iterator[bytes]:
    """Yields a file as it is, in pieces."""
    while piece := file.read(CHUNK):
        yield piece


def _unpacked(file: BinaryIO, kind: str, new: Callable[[], _Unpacker], at_once: int) -> Iterator[bytes]:
    packed = (piece[i : i + PACKED] for piece in plain(file) for i in range(0, len(piece), PACKED))
    data: bytes | None = next(packed, None)
    while data:
        member = new()
        while not member.eof:
            if data is None:
                raise Damage(f"the {kind} data is cut off")
            try:
                piece = member.decompress(data, at_once)
            except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
                raise Damage(f"broken {kind} data: {error}") from None
            if piece:
                yield piece
            data = b"" if piece or member.eof else next(packed, None)
        data = member.unused_data
        while data is not None and not (data := data.lstrip(b"\0")):
            data = next(packed, None)


def _by_arrow(file: BinaryIO, codec: str) -> Iterator[bytes]:
    import pyarrow as pa

    storage = _Storage(file)
    stream = pa.CompressedInputStream(pa.PythonFile(storage, mode="r"), codec)
    while True:
        try:
            piece = cast(bytes, stream.read(SMALL))
        except Exception as error:
            if storage.error is not None:
                raise storage.error from None
            raise Damage(f"broken {codec} data: {error}") from None
        if not piece:
            return
        yield piece


class _Storage:
    """A file for Arrow that remembers its own error, and stays open."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:
            self.error = error
            raise

    def close(self) -> Any:
        """Leaves the file to its owner."""
