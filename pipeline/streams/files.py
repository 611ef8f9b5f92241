"""Files by URL (local or any fsspec scheme): expanding patterns, fingerprints, hashing, durable renames."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pipeline.assets import resolve
from pipeline.errors import UserError
from pipeline.listing import magic, matching
from pipeline.optional import require_package
from pipeline.section import Section
from pipeline.streams.bounds import Bounds
from pipeline.streams.remote import RemoteFile, mark_of, persistently, shown

CHUNK = 1 << 20
"""Bytes that are read at a time."""
READ_AHEAD = 1 << 17
"""Bytes of a remote file that are asked for at least; file systems read more ahead by themselves."""
MOST_FILES = Bounds().files
"""Files that patterns may stand for where no section of an input says it."""
BRACES = re.compile(r"\\.|[{},]|(?<=\{)(?P<first>-?\d+)\.\.(?P<last>-?\d+)(\.\.(?P<step>-?\d+))?(?=\})", re.DOTALL)
"""What counts in a pattern with braces: signs, and ranges of numbers; a backslash takes the meaning from a sign."""


def expand_urls(patterns: Sequence[str], option: str = "input.urls", *, most: int = MOST_FILES) -> list[str]:
    """Expands braces (`{00..09}`) and globs (`*`, `?`, `[…]`) in the order given, and sorts the files of each glob.

    Raises `UserError` for a glob that matches nothing, for a local file that is missing, and for patterns that stand
    for more than `most` files, before they are expanded; `option` is what it names.
    """
    urls: list[str] = []
    for pattern in map(resolve, patterns):
        for url in _braces(pattern, option, most):
            found = list(islice(_glob(url), most + 1 - len(urls)))
            if not found:
                raise UserError(f"{option}: {shown(url)!r} matches no file")
            urls += sorted(found, key=lambda path: path.split("/"))
            if len(urls) > most:
                raise UserError(
                    f"{option}: more than {most} files are found, the number that input.bounds.files allows"
                )
    return urls


def fingerprint(url: str) -> str:
    """Size, times and inode of a local file; of another one its size and its ETag, version or date.

    Where its file system tells none of these, it is the sha256 of the content. Raises `Unreachable` as `open_url` does.
    """
    if "://" not in url:
        s = os.stat(url)
        return f"{s.st_size}-{s.st_mtime_ns}-{s.st_ctime_ns}-{s.st_ino}"
    file_system, path = file_system_at(url)
    return mark_of(persistently(url, lambda: file_system.info(path))) or content_hash(url)


def content_hash(url: str) -> str:
    """sha256, in hexadecimal, of a file's content."""
    digest = hashlib.sha256()
    with open_url(url) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class HashedReader:
    """A file that is read once from front to back, and hashed on the way. It can only be rewound to 0."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._complete = file, hashlib.sha256(), False

    def read(self, size: int = -1) -> bytes:
        """Reads and hashes up to `size` bytes, or the rest."""
        data = self._file.read(size)
        self._digest.update(data)
        self._complete = size < 0 or (size > 0 and not data)
        return data

    def seek(self, position: int) -> int:
        """Rewinds to 0 and starts the hash anew. Raises `ValueError` for another position."""
        if position != 0:
            raise ValueError("a hashed file can only be rewound")
        self._digest, self._complete = hashlib.sha256(), False
        return self._file.seek(0)

    def sha256(self) -> str | None:
        """sha256, in hexadecimal; None where the end of the file has not been reached."""
        return self._digest.hexdigest() if self._complete else None


def stored_sha256(url: str) -> str | None:
    """The sha256 that the Hugging Face hub stores for a large file; None elsewhere."""
    if not url.startswith("hf://"):
        return None
    file_system, path = file_system_at(url)
    large = persistently(url, lambda: file_system.info(path)).get("lfs")
    return large["sha256"] if large else None


def open_url(url: str) -> BinaryIO:
    """Opens a local file, or one at a URL, for reading.

    Raises `UserError` where its protocol is unknown. Where the network breaks, now or later, it is tried again, and
    then `Unreachable` is raised.
    """
    if "://" not in url:
        return open(url, "rb")
    file_system, path = file_system_at(url)
    return io.BufferedReader(RemoteFile(url, file_system, path), READ_AHEAD)


def is_damage(error: Exception, *, local: bool = True) -> bool:
    """Whether an error means broken bytes, to be recorded; storage that cannot be reached must be tried again instead.

    Decoders raise a bare `OSError` for damage. File systems add a number to theirs, but networks may not.
    """
    decoding = (ValueError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
    if isinstance(error, decoding):
        return True
    return local and type(error) is OSError and error.errno is None


class Stored(Section):
    """What a file holds."""

    sha256: str
    bytes: int


def publish(part: Path, final: Path) -> Stored:
    """Moves a finished file into place such that it survives a power cut."""
    stored = sync_file(part)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, final)
    sync_folder(final.parent)
    return stored


def sync_file(path: Path) -> Stored:
    """Makes a file's content safe on disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return Stored(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=file.tell())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder safe on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _braces(pattern: str, option: str, most: int) -> list[str]:
    from braceexpand import braceexpand

    if os.path.isfile(pattern):
        return [pattern]
    try:
        if (count := count_braces(pattern)) > most:
            raise UserError(f"{option}: {pattern[:80]!r} stands for {count:g} files; input.bounds.files allows {most}")
        return list(braceexpand(pattern))
    except (ValueError, RecursionError):
        raise UserError(f"{option}: {pattern[:80]!r} has a brace without its partner, or too many") from None


def count_braces(pattern: str) -> int:
    """How many names the braces of a pattern stand for, or a few more, without making them.

    Raises `ValueError` for numbers of thousands of digits.
    """
    levels = [(0, 1)]  # of each brace that is open: names before the last comma, and since
    for found in BRACES.finditer(pattern):
        before, since = levels[-1]
        if found["first"]:
            first, last, step = (int(found[name] or 1) for name in ("first", "last", "step"))
            levels[-1] = before, since * (abs(last - first) // max(abs(step), 1) + 1)
        elif found[0] == "{":
            levels.append((0, 1))
        elif found[0] == "," and len(levels) > 1:
            levels[-1] = before + since, 1
        elif found[0] == "}" and len(levels) > 1:
            levels.pop()
            levels[-1] = levels[-1][0], levels[-1][1] * (before + since)
    return levels[0][1]


def _glob(url: str) -> Iterator[str]:
    """The files that a glob matches, in no order; of an object store, what it says."""
    if "://" not in url:
        if not magic(url) or os.path.isfile(url):
            yield from [url] if os.path.isfile(url) else []
        else:
            yield from dict.fromkeys(matching(url))
    elif magic(urlsplit(url).path if url.startswith(("http://", "https://")) else url):  # `?` begins a query there
        file_system, path = file_system_at(url)
        yield from map(file_system.unstrip_protocol, persistently(url, lambda: file_system.glob(path)))
    else:
        yield url


def file_system_at(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system that a URL lies in, made with its `options`, and the path that the URL has there.

    Raises `UserError` where its protocol is unknown or its package is missing, and `Unreachable` as `open_url` does.
    """
    from fsspec.core import url_to_fs

    if url.lower().startswith(("s3://", "s3a://")):
        require_package("s3fs", shown(url), extra="s3")

    def found() -> tuple[Any, str]:
        try:
            urlsplit(url)  # some back ends take what is no URL, and fail on it later
            return url_to_fs(url, **options)
        except (ImportError, ValueError) as error:  # a back end that is not installed, or no such protocol
            raise UserError(f"{shown(url)!r} cannot be opened: {error}") from None

    return persistently(url, found)  # some back ends connect at once
