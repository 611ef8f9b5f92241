"""Captions as input, for jobs that start from text: one sample for each line of a jsonl file, with a blank image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, cast

from pydantic import Field, field_validator

from pipeline.media.records import Rejected, Sample
from pipeline.section import Section
from pipeline.streams.bounds import Bounds
from pipeline.streams.compressed import Damage
from pipeline.streams.contract import InputStream
from pipeline.streams.files import HashedReader, content_hash, expand_urls, fingerprint, open_url
from pipeline.streams.lines import Line, read_lines
from pipeline.streams.names import unsafe
from pipeline.streams.shard_names import read_places, shard_names

KEPT_OF_LONGER = 1 << 12
"""Bytes of a line that is too long, of those that go to the quarantine."""

BLANK_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c"
    "49444154789c636868680000030401814bd3d2100000000049454e44ae426082"
)
"""One grey pixel, stored in colour so that `image.mode: source` does not turn what is painted over it grey."""


class CaptionsInput(Section):
    """Reads jsonl files, plain or compressed as `unpacked` reads them, local or by any fsspec URL.

    Every line is a JSON object; blank lines are skipped. Each sample has the members `json` (the line) and, where the
    caption is one text, `txt`; a blank image and no label.
    """

    format: Literal["captions"] = "captions"
    urls: tuple[str, ...] = Field(min_length=1)
    """One or many files; globs and braces are expanded. Each file is a shard."""
    bounds: Bounds = Bounds()
    """How much of a file may be held at a time."""
    prompt: str = "caption"
    """The field that holds the caption, or a list of captions, of which `caption: {template: "{json:FIELD}", pick: …}`
    takes one."""
    id: str = "id"
    """The field that holds the key, text or a whole number. A line without it gets `FILE-000017`, with its line
    number."""

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def open(self) -> InputStream:
        """Finds the files. Raises `UserError` for one that is not there."""
        urls = expand_urls(self.urls, most=self.bounds.files)
        names = shard_names(urls, self.urls)
        shards = [CaptionShard(url, name, self) for url, name in zip(urls, names, strict=True)]
        return InputStream(shards=shards, places=read_places(*self.urls, *urls))


class CaptionShard:
    """One jsonl file, as an `InputShard`."""

    def __init__(self, url: str, name: str, options: CaptionsInput) -> None:
        self.url, self.name, self.options = url, name, options
        self._hash: str | None = None

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return fingerprint(self.url)

    def content_hash(self) -> str:
        """See `InputShard`."""
        return self._hash or content_hash(self.url)

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`; bad lines are `Rejected`."""
        seen = set[str]()
        with open_url(self.url) as file:
            hashed = HashedReader(file)
            lines = read_lines(cast(BinaryIO, hashed), self.options.bounds.line_bytes)
            for number, line in enumerate(lines, start=1):
                if isinstance(line, Damage):
                    reason = f"{line}: nothing can be read from line {number} on"
                    yield Rejected(key="", reason=reason, kind="damaged", origin=self._origin(number))
                elif line.start.strip() or line.too_long:
                    yield self._sample(line, number, seen)
            self._hash = hashed.sha256()

    def _sample(self, line: Line, number: int, seen: set[str]) -> Sample | Rejected:
        """Adds the key to `seen`."""
        kept, bounds = {"line": line.start}, self.options.bounds
        if line.too_long:
            reason = f"the line has {line.size} bytes; allowed are {bounds.line_bytes} (input.bounds.line_bytes)"
            return self._reject(number, reason, "undecodable", {"line": line.start[:KEPT_OF_LONGER]})
        try:
            content = json.loads(line.start.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            return self._reject(number, f"the line is not valid JSON ({error})", "undecodable", kept)
        if not isinstance(content, dict):
            return self._reject(number, f"a JSON object is expected, found {line.start[:40]!r}", "undecodable", kept)
        key = content.get(self.options.id, self._key(number))
        if (
            problem := _key_problem(key, bounds.key_bytes) or _caption_problem(content, self.options.prompt)
        ) is not None:
            return self._reject(number, problem, "refused", kept)
        if (key := str(key)) in seen:
            return self._reject(number, f"duplicate key {key!r} in this shard", "refused", kept)
        seen.add(key)
        caption, members = content[self.options.prompt], {"json": line.start}
        if isinstance(caption, str):
            members["txt"] = caption.encode()
        shard = self.name if self.options.id in content else ""
        origin = self._origin(number)
        return Sample(key=key, shard=shard, image=BLANK_PNG, image_ext="png", members=members, origin=origin)

    def _reject(
        self, number: int, reason: str, kind: Literal["undecodable", "refused"], kept: dict[str, bytes]
    ) -> Rejected:
        return Rejected(key=self._key(number), reason=reason, kind=kind, origin=self._origin(number), members=kept)

    def _key(self, number: int) -> str:
        return f"{self.name}-{number:06d}"

    def _origin(self, number: int) -> str:
        return f"{self.name}:line {number}"


def _key_problem(key: Any, longest: int) -> str | None:
    if isinstance(key, bool) or not isinstance(key, str | int):
        return f"the key must be text or a whole number, found {repr(key)[:80]}"
    name = str(key)
    if not name.rpartition("/")[2] or unsafe(name) or not _encodable(name) or len(name.encode()) > longest:
        return f"the key {repr(key)[:80]} cannot name a sample (at most {longest} bytes, no unsafe path)"
    return None


def _caption_problem(content: dict[str, Any], field: str) -> str | None:
    if field not in content:
        return f"field {field!r} is missing (fields: {', '.join(map(repr, content))[:200]})"
    caption = content[field]
    texts = caption if isinstance(caption, list) else [caption]
    if not all(isinstance(text, str) for text in texts):
        return f"field {field!r} must be text or a list of texts, found {repr(caption)[:80]}"
    if not texts or not all(map(str.strip, texts)):
        return f"field {field!r} is empty"
    return None if all(map(_encodable, texts)) else f"field {field!r} holds half a surrogate pair, which is not text"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
