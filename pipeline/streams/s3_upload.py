"""Large files to S3 in parts: each is confirmed by its checksum, and an upload that ends early leaves no object.

Nobody sees anything of an upload before it is complete. Its parts are aborted where it fails, and by `abort_all` where
its process died.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.streams.remote import Gone, Unreachable, persistently

PART_BYTES = 16 << 20
"""Bytes of a part, at least; files of no more are put whole."""
MOST_PARTS = 10_000
"""Parts that S3 takes for one object."""
AT_ONCE = 4
"""Parts that are on their way at a time."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A part that was sent, and what the store said of it."""

    number: int
    sha256: bytes
    answer: Mapping[str, Any]
    confirmed: bool
    """Whether the store has named its sha256 or its MD5."""


class S3Uploads:
    """The uploads to a folder of a bucket, by an s3fs file system."""

    def __init__(self, files: Any, path: str) -> None:
        """`path` is the folder, beginning with the bucket."""
        self._files = files
        self._bucket, _, self._folder = path.partition("/")

    def put(self, file: Path, path: str, url: str) -> bool:
        """Puts a local file as the object `path` below the folder; says whether the store has confirmed its content.

        Raises `Unreachable`, and then there is no object, or the one that was there before.
        """
        key = f"{self._folder}/{path}" if self._folder else path
        size = file.stat().st_size
        if size <= PART_BYTES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).digest()
            answer = self._call(url, "put_object", Key=key, Body=content, ChecksumSHA256=_text(digest))
            return _confirms(answer, digest, content)
        begun = self._call(url, "create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256")
        upload = begun["UploadId"]
        try:
            parts = self._send(file, size, key, upload, url)
            return self._complete(parts, key, upload, url)
        except BaseException:
            with suppress(Exception):  # `abort_all` does it at the next run
                self._files.call_s3("abort_multipart_upload", Bucket=self._bucket, Key=key, UploadId=upload)
            raise

    def abort_all(self, url: str) -> None:
        """Aborts all uploads that were begun below the folder and not completed."""
        prefix = f"{self._folder}/" if self._folder else ""
        for key, upload in list(self._begun(prefix, url)):
            with suppress(Gone):
                self._call(url, "abort_multipart_upload", Key=key, UploadId=upload)

    def _begun(self, prefix: str, url: str) -> Iterator[tuple[str, str]]:
        page: Mapping[str, Any] = {"IsTruncated": True}
        markers = dict[str, str]()
        while page.get("IsTruncated"):
            page = self._call(url, "list_multipart_uploads", Prefix=prefix, **markers)
            yield from ((upload["Key"], upload["UploadId"]) for upload in page.get("Uploads") or ())
            markers = {"KeyMarker": page.get("NextKeyMarker", ""), "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def _send(self, file: Path, size: int, key: str, upload: str, url: str) -> list[Sent]:
        length = max(PART_BYTES, -(-size // MOST_PARTS))
        handle = os.open(file, os.O_RDONLY)

        def send(number: int) -> Sent:
            content = os.pread(handle, length, (number - 1) * length)
            digest = hashlib.sha256(content).digest()
            answer = self._call(
                url, "upload_part", Key=key, UploadId=upload, PartNumber=number, Body=content,
                ChecksumSHA256=_text(digest),
            )  # fmt: skip
            return Sent(number=number, sha256=digest, answer=answer, confirmed=_confirms(answer, digest, content))

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                return list(pool.map(send, range(1, -(-size // length) + 1)))
        finally:
            os.close(handle)

    def _complete(self, parts: list[Sent], key: str, upload: str, url: str) -> bool:
        listed = [{"PartNumber": one.number, "ETag": one.answer["ETag"]} for one in parts]
        for one, entry in zip(parts, listed, strict=True):
            if "ChecksumSHA256" in one.answer:
                entry["ChecksumSHA256"] = one.answer["ChecksumSHA256"]
        try:
            answer = self._call(
                url, "complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": listed}
            )
        except Gone:  # an earlier try has completed it, and its answer was lost; or else no object is as it was sent
            return False
        whole = f"{_text(hashlib.sha256(b''.join(one.sha256 for one in parts)).digest())}-{len(parts)}"
        if (told := answer.get("ChecksumSHA256")) is not None and told not in (whole, whole.rpartition("-")[0]):
            raise Unreachable(f"{url}: the store has put the parts together in another way than they were sent")
        return all(one.confirmed for one in parts)

    def _call(self, url: str, method: str, **given: Any) -> Mapping[str, Any]:
        done = "listed" if method.startswith("list") else "written"
        return persistently(url, lambda: self._files.call_s3(method, Bucket=self._bucket, **given), done)


def _confirms(answer: Mapping[str, Any], sha256: bytes, content: bytes) -> bool:
    """Whether an answer names the sha256 or the MD5 of what was sent; the latter is an ETag without encryption."""
    if answer.get("ChecksumSHA256") == _text(sha256):
        return True
    return bool(answer.get("ETag", "").strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest())


def _text(digest: bytes) -> str:
    return b64encode(digest).decode()
