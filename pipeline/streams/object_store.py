"""A folder of an object store as a place for jobs, by any fsspec URL: whole objects, no renames, no locks of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.errors import UserError
from pipeline.streams.files import Stored, content_hash, file_system_at, open_url, sync_file
from pipeline.streams.remote import Gone, Refused, Unreachable, mark_of, persistently, shown, status_of
from pipeline.streams.s3_upload import S3Uploads
from pipeline.streams.spool import make_spool
from pipeline.streams.store import Entry

AT_ONCE = 16
"""Requests that are on their way at a time, where many files are asked for."""
TAKEN = (409, 412)
"""HTTP statuses of a put under a condition that does not hold, or whose outcome another put decides."""
TRIAL = ".trial-"
"""What the names of objects begin with by which a store is tried out."""
CHUNK = 1 << 20
"""Bytes that are copied at a time."""
T = TypeVar("T")


class ObjectStore:
    """All objects whose names begin with that of a folder; see `Store` for what its methods promise."""

    def __init__(self, url: str) -> None:
        """`url` is a `Place`. Raises `UserError` where its protocol is unknown or its package is missing."""
        self._root = url
        self._files, self._path = file_system_at(url, use_listings_cache=False)
        s3 = url.startswith(("s3://", "s3a://"))
        self._uploads = S3Uploads(self._files, self._path) if s3 else None

    @property
    def shown(self) -> str:
        """See `Store`."""
        return shown(self._root)

    @property
    def local(self) -> Path | None:
        """See `Store`."""
        return None

    @cached_property
    def parts(self) -> Path:
        """See `Store`: a spool, in which nothing outlives the process."""
        return make_spool(self._root)

    def url(self, path: str) -> str:
        """See `Store`."""
        return f"{self._root}/{path}"

    def put(self, path: str, content: bytes) -> None:
        """See `Store`."""
        self._try(path, lambda: self._files.pipe_file(self._inner(path), content), "written")

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """See `Store`. It is the condition `If-None-Match` of S3, and what other stores have for it."""

        def put() -> bool:
            try:
                self._files.pipe_file(self._inner(path), content, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if status_of(error) in TAKEN:
                    return False
                raise
            return True

        while not self._try(path, put, "written"):
            found = self.read(path)
            if found is not None:  # ours, where an earlier try of this call has put it and the answer was lost
                return found == content
        return True

    def put_file(self, part: Path, path: str) -> Stored:
        """See `Store`.

        An S3 store confirms the sha256 of the object or of its parts, or else their MD5; what does not, and any other
        kind of store, is read again and hashed. Raises `Unreachable` where that gives another hash.
        """
        stored = sync_file(part)
        confirmed = False
        if self._uploads is not None:
            confirmed = self._allowed(partial(self._uploads.put, part, path, self.url(path)))
        else:
            self._try(path, lambda: self._files.put_file(str(part), self._inner(path)), "written")
        if not confirmed and content_hash(self.url(path)) != stored.sha256:
            self.delete(path)
            raise Unreachable(f"{shown(self.url(path))} was not stored as it was sent")
        part.unlink()
        self._copy(path).unlink(missing_ok=True)
        return stored

    def put_new_files(self, parts: Mapping[str, Path]) -> str | None:
        """See `Store`. Each file is held in memory on its way."""

        def put(path: str) -> bool:
            return self.put_if_absent(path, parts[path].read_bytes())

        done: dict[str, bool] = dict(zip(parts, self._each(put, parts), strict=True))
        taken = [path for path, new in done.items() if not new]
        if taken:
            self._each(self.delete, [path for path, new in done.items() if new])
            return taken[0]
        for part in parts.values():
            part.unlink()
        return None

    def held(self, paths: Iterable[str]) -> set[str]:
        """See `Store`."""

        def there(path: str) -> bool:
            try:
                info: dict[str, Any] = self._try(path, lambda: self._files.info(self._inner(path)), "read")
            except Gone:
                return False
            return info.get("type") == "file"

        paths = tuple(paths)
        return {path for path, found in zip(paths, self._each(there, paths), strict=True) if found}

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        try:
            return bytes(self._try(path, lambda: self._files.cat_file(self._inner(path)), "read"))
        except Gone:
            return None

    def fetch(self, path: str) -> Path | None:
        """See `Store`: a copy in the spool, made anew at each call."""
        copy = self._copy(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_url(self.url(path)) as source, open(copy, "wb") as target:
                while chunk := source.read(CHUNK):
                    target.write(chunk)
        except Gone:
            copy.unlink(missing_ok=True)
            return None
        return copy

    def list(self, folder: str) -> Iterator[Entry]:
        """See `Store`. It is one listing, in as few pages as the store gives."""
        try:
            found: dict[str, Any] = self._try(
                folder, lambda: self._files.find(self._inner(folder), detail=True), "listed"
            )
        except Gone:
            return
        for name, info in found.items():
            path = name.removeprefix(f"{self._path}/")
            if info.get("type") == "file" and not any(part.startswith(".") for part in path.split("/")):
                yield Entry(path=path, bytes=info["size"], mark=mark_of(info) or str(info["size"]))

    def top(self) -> set[str]:
        """See `Store`."""
        try:
            names = self._try("", lambda: self._files.ls(self._path, detail=False), "listed")
        except Gone:
            return set()
        return {name.rstrip("/").rpartition("/")[2] for name in names if name.rstrip("/") != self._path}

    def delete(self, path: str) -> None:
        """See `Store`."""
        with suppress(Gone):
            self._try(path, lambda: self._files.rm_file(self._inner(path)), "removed")
        self._copy(path).unlink(missing_ok=True)

    def clear(self, folder: str) -> None:
        """See `Store`."""
        self._each(self.delete, [entry.path for entry in self.list(folder)])

    def sweep(self) -> None:
        """See `Store`: uploads that were never completed, of which the store keeps the parts."""
        if self._uploads is not None:
            self._allowed(partial(self._uploads.abort_all, self._root))
        for name in self.top():
            if name.startswith(TRIAL):
                self.delete(name)

    def exclusive(self) -> str | None:
        """See `Store`. It is tried out: what is put twice must be refused once."""
        path = f"{TRIAL}{uuid4().hex}"
        try:
            if not self.put_if_absent(path, b"first"):
                return "an object is said to be there that nobody has put"
            return "it puts an object in the place of another that should stay" if self._overwrites(path) else None
        finally:
            self.delete(path)

    def _overwrites(self, path: str) -> bool:
        try:
            return self.put_if_absent(path, b"second")
        except Unreachable:
            return True

    def _copy(self, path: str) -> Path:
        return self.parts / "fetched" / path

    def _inner(self, path: str) -> str:
        return f"{self._path}/{path}" if path else self._path

    def _each(self, work: Callable[[str], T], paths: Iterable[str]) -> Sequence[T]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return tuple(pool.map(work, paths))

    def _try(self, path: str, work: Callable[[], T], done: str) -> T:
        try:
            return self._allowed(lambda: persistently(self.url(path).rstrip("/"), work, done))
        except Gone:
            if done != "written":
                raise
            raise UserError(f"{self.shown} cannot be written: there is no such bucket") from None

    def _allowed(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Refused as error:
            raise UserError(f"{error}; a job reads, writes, lists and removes there") from None
