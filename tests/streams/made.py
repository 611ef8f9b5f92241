"""Small things made for the tests of streams: images, tars, data sets, and where the real data lies."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from pipeline.media.records import Rejected, Sample
from pipeline.streams.contract import InputShard, InputStream, ShardWriter
from pipeline.streams.files import Stored
from pipeline.streams.quarantine import QuarantineWriter
from pipeline.streams.store import DiskStore, Store

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def picture(seed: int, format: str = "png") -> bytes:
    """A valid image of 7 × 5 pixels, different for every seed."""
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5), (seed % 256, seed * 7 % 256, 255 - seed % 256)).save(buffer, format)
    return buffer.getvalue()


def tar_bytes(members: Iterable[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def samples(shard: InputShard) -> list[Sample]:
    """What `shard` holds; nothing in it may be rejected."""
    read = list(shard.read())
    assert all(isinstance(item, Sample) for item in read), read
    return [item for item in read if isinstance(item, Sample)]


def rejected(items: Iterable[Sample | Rejected]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]


def everything(stream: InputStream) -> list[Sample]:
    return [sample for shard in stream.shards for sample in samples(shard)]


def write(writer: ShardWriter, items: Iterable[Sample]) -> dict[str, str]:
    """The sha256 of each file in data/."""
    for sample in items:
        writer.add([sample])
    stored = writer.commit().items()
    return {path.removeprefix("data/"): held.sha256 for path, held in stored if path.startswith("data/")}


def folders(root: Path) -> tuple[Path, Path]:
    """(data, parts) of an output."""
    data, parts = root / "data", root / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    return data, parts


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def disk(data: Path) -> DiskStore:
    """The store that `data` is the folder of."""
    return DiskStore(data.parent, data.parent / ".parts")


def write_quarantine(rejected: Iterable[Rejected], *, store: Store, parts: Path, name: str) -> dict[str, Stored]:
    """Writes all at once; see `QuarantineWriter`."""
    writer = QuarantineWriter(store=store, parts=parts, name=name)
    for bad in rejected:
        writer.add(bad)
    return writer.commit()
