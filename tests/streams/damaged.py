"""A tar of four samples, and ways to read one that was tampered with."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pipeline.media.records import Rejected, Sample
from pipeline.streams.shards import TarShard, WebDatasetInput
from tests.streams.made import picture

NAMES = ["a", "b", "c", "d"]


def shard(path: Path, content: bytes, **options: object) -> TarShard:
    path.write_bytes(content)
    return TarShard(str(path), path.stem, WebDatasetInput.model_validate({"urls": str(path), **options}))


def read(tmp_path: Path, content: bytes, **options: object) -> list[Sample | Rejected]:
    return list(shard(tmp_path / "t.tar", content, **options).read())


def members(seed: int, key: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", picture(seed)), (f"{key}.cls", str(seed).encode()), (f"{key}.bin", bytes(700))]


def starts(content: bytes) -> list[tuple[str, int]]:
    """(member name, offset of its header) of every member."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [(info.name, info.offset) for info in tar]


def told(items: list[Sample | Rejected]) -> list[str]:
    """The key of every sample, with `?` where it is undecodable and `!` where it is refused; `#` for damage."""
    marks = {"undecodable": "?", "refused": "!", "damaged": "#"}
    return [item.key + (marks[item.kind] if isinstance(item, Rejected) else "") for item in items]
