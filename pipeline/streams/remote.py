"""Files on other machines: what the network breaks is tried again, and what stays broken is never taken for damage."""

from __future__ import annotations

import asyncio
import http.client
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import UserError

TRIES = 5
"""How often something is tried before it counts as unreachable."""
FIRST_WAIT = 1.0
"""Seconds before the second try; each further wait is twice as long."""
BUSY = (408, 425, 429)
"""HTTP statuses below 500 that say that a later try may succeed."""
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of storage that no further try mends."""
REFUSED = (401, 403)
"""HTTP statuses of what is not allowed."""
UNKNOWN = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
"""Errors of object stores that nobody is logged in to."""
NETWORKS = ("aiohttp", "requests", "urllib3", "httpx", "httpcore", "botocore", "ssl")
"""Packages whose errors are those of a network, unless a status says otherwise."""
MARKS = frozenset({
    "etag", "contentmd5", "digest", "md5", "md5hash", "crc", "crc32c", "sha", "sha256", "blobid", "lfs", "generation",
    "versionid", "lastmodified", "lastcommit", "mtime", "modified", "modify", "modificationtime", "updated", "created",
})  # fmt: skip
"""What file systems call the things that change with a file's content: checksums, versions and dates, in small letters
and without `-` and `_`."""
Result = TypeVar("Result")


class Unreachable(OSError):
    """A remote file that could not be read or written, after all tries.

    The message names its URL, without what may be secret.
    """


class Gone(Unreachable, FileNotFoundError):
    """A remote file that is not there."""


class Refused(Unreachable, PermissionError):
    """A remote file that this user may not read or write."""


class Cut(Exception):
    """A body that ended before the length that was announced."""


def persistently(url: str, work: Callable[[], Result], done: str = "read") -> Result:
    """Does `work` at `url`, and tries again after errors that may pass; `done` says what is done to the file there.

    Raises `Unreachable` after the last try, or at once for an error that does not pass: `Refused` for HTTP 401 and 403,
    `Gone` for 404.
    """
    wait = FIRST_WAIT
    for trial in range(1, TRIES + 1):
        try:
            return work()
        except (Unreachable, UserError):
            raise
        except Exception as error:
            if not passing(error) or trial == TRIES:
                tried = f" after {trial} tries" if trial > 1 else ""
                raise _kind(error)(f"{shown(url)} cannot be {done}{tried}: {reason(error)}") from None
        time.sleep(wait)
        wait *= 2
    raise AssertionError("no try was made")


def _kind(error: Exception) -> type[Unreachable]:
    status, cause = status_of(error), type(last_cause(error))
    looked_up = isinstance(error, FileNotFoundError) and cause is KeyError  # in a dictionary, as memory:// does
    if status == 404 or (status is None and (issubclass(cause, FileNotFoundError) or looked_up)):
        return Gone
    refused = status in REFUSED or (
        status is None and (issubclass(cause, PermissionError) or cause.__name__ in UNKNOWN)
    )
    return Refused if refused else Unreachable


def passing(error: Exception) -> bool:
    """Whether an error may pass: a lost connection, a timeout, a cut body, HTTP 408, 425, 429 and 5xx."""
    if (status := status_of(error)) is not None:
        return status in BUSY or status >= 500
    cause = last_cause(error)
    if isinstance(cause, (OSError, asyncio.TimeoutError, Cut, http.client.HTTPException)):
        return not isinstance(cause, FINAL)
    return type(cause).__module__.partition(".")[0] in NETWORKS and type(cause).__name__ not in UNKNOWN


def status_of(error: BaseException) -> int | None:
    """The HTTP status in an error or in what caused it; None where there is none."""
    for one in causes(error):
        response = getattr(one, "response", None)
        of_s3 = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        for status in (getattr(one, "status", None), getattr(response, "status_code", None), of_s3):
            if isinstance(status, int):
                return status
    return None


def last_cause(error: BaseException) -> BaseException:
    """What an error began with: file systems say "not found" of whatever went wrong."""
    return list(causes(error))[-1]


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def reason(error: Exception) -> str:
    """Why something failed, in few words that hold no URL: there may be a signature in it."""
    if (status := status_of(error)) is not None:
        return f"HTTP status {status} ({http.client.responses.get(status, 'unknown')})"
    cause = last_cause(error)
    if type(cause) is FileNotFoundError:
        return "it is not there"
    said = getattr(cause, "strerror", None) or str(cause)
    plain = "" if "://" in said else " ".join(said.split())[:120]
    return f"{type(cause).__name__}: {plain}" if plain else type(cause).__name__


def shown(url: str) -> str:
    """A URL without user, password and query, which may be secret; a path as it is."""
    if "://" not in url:
        return url
    with suppress(ValueError):
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return url.partition("?")[0]


def mark_of(info: Mapping[str, Any]) -> str | None:
    """Size and everything that changes with the content, as a file system tells; None where it tells nothing."""
    told = {name: value for name, value in info.items() if name.lower().replace("-", "").replace("_", "") in MARKS}
    told = {name: value for name, value in told.items() if value not in (None, "")}
    return f"{info.get('size')} {sorted(told.items())}" if told else None


class RemoteFile(io.RawIOBase):
    """A file of an fsspec file system, opened again at the same place where the network breaks.

    Raises `Unreachable` for everything that the file system cannot do.
    """

    def __init__(self, url: str, file_system: Any, path: str) -> None:
        super().__init__()
        self._url, self._file_system, self._path = url, file_system, path
        self._place = 0
        self._file: Any = None
        self._options: dict[str, Any] = {}
        info = self._info()
        self._size, self._mark = info.get("size"), mark_of(info)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Only notes the place. Raises `Unreachable` for one from the end of a file whose size is unknown."""
        if whence == io.SEEK_END and self._size is None:
            raise Unreachable(f"{shown(self._url)}: the server does not say how large it is, and its end is asked for")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size or 0}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = persistently(self._url, lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        if self._size is not None and self._place >= self._size:
            return b""
        try:
            data = bytes(self._at_place().read(size))
        except ValueError:  # fsspec's, where the server gives whole files only
            self._drop()
            if self._options:
                raise
            self._options = {"block_size": 0}
            return self._read(size)
        except Exception:
            self._drop()
            raise
        if not data and self._size is not None:
            self._drop()
            raise Cut(f"{self._place} of {self._size} bytes came")
        return data

    def _at_place(self) -> Any:
        """The open file at the place that is to be read next."""
        if self._file is None:
            if self._place and self._mark != mark_of(self._file_system.info(self._path)):
                raise Unreachable(f"{shown(self._url)} has changed while it was read")
            self._file = self._file_system.open(self._path, "rb", **self._options)
        if self._file.tell() != self._place:
            if self._options:
                self._skip()
            else:
                self._file.seek(self._place)
        return self._file

    def _skip(self) -> None:
        """Goes on in a file that can only be read from the front."""
        if self._file.tell() > self._place:
            self._file.close()
            self._file = self._file_system.open(self._path, "rb", **self._options)
        while left := self._place - self._file.tell():
            if not self._file.read(min(left, 1 << 20)):
                raise Cut(f"{self._file.tell()} bytes came, and {self._place} came before")

    def _info(self) -> dict[str, Any]:
        return persistently(self._url, lambda: dict(self._file_system.info(self._path)))

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(Exception):  # of a connection that is lost anyway
                file.close()
