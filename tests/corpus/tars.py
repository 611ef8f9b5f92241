"""Tars of every kind, also such as no library would write."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.corpus.case import Lay

END = bytes(1024)
"""The end-of-archive marker."""


def header(name: bytes, size: int, kind: bytes = b"0", *, magic: bytes = b"ustar\x0000", **fields: bytes) -> bytes:
    """A block of 512 bytes; `fields` are `link`, `prefix`, `stated` (the size) and `sum`, as they stand there."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = fields.get("stated", b"%011o\0" % size)
    block[136:148], block[148:156], block[156:157] = b"00000000000\0", b" " * 8, kind
    link, prefix = fields.get("link", b""), fields.get("prefix", b"")
    block[157 : 157 + len(link)] = link
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = fields.get("sum", b"%06o\0 " % sum(block))
    return bytes(block)


def entry(name: bytes, content: bytes, kind: bytes = b"0", **fields: Any) -> bytes:
    """A member: its header and its content, padded."""
    return header(name, len(content), kind, **fields) + content + bytes(-len(content) % 512)


def raw(members: Iterable[tuple[str, bytes]], end: bytes = END, *, kind: bytes = b"0", **fields: Any) -> bytes:
    """A tar of plain members, byte by byte as the format says."""
    named = ((name.encode(errors="surrogateescape"), content) for name, content in members)
    return b"".join(entry(name, content, kind, **fields) for name, content in named) + end


def packed(members: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar as the standard library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pax(records: Mapping[str, bytes], kind: bytes = b"x") -> bytes:
    """An extended header of POSIX.1-2001; every record is `LENGTH KEYWORD=VALUE\\n`."""
    content = b""
    for keyword, value in records.items():
        rest = b" " + keyword.encode() + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        content += str(length).encode() + rest
    return entry(b"PaxHeader", content, kind)


def one(content: bytes, **options: Any) -> Lay:
    """Lays a single tar."""
    return named({"t.tar": content}, **options)


def named(files: Mapping[str, bytes], pattern: str = "*", **options: Any) -> Lay:
    """Lays files under given names, all of which match the pattern."""

    def lay(folder: Path) -> dict[str, Any]:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return {"format": "webdataset", "urls": f"{folder}/{pattern}", **options}

    return lay
