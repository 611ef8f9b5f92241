"""Files with several pages, and animations: each image of them as a sample of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image, ImageSequence

from pipeline.media.clips import LARGEST_CLIP, MOST_FRAMES
from pipeline.media.opening import Undecodable, has_more, pages_of, reading
from pipeline.media.records import Rejected, Sample, reject
from pipeline.streams.contract import InputShard, InputStream

MOST_PAGES = 10_000
"""Pages of a TIFF, at most."""


def paged(stream: InputStream, frames: Literal["first", "all"]) -> InputStream:
    """The stream itself, or one where every page and frame is a sample, with the keys KEY-000, KEY-001, …

    A file with a single image keeps its key. Where one frame of an animation is damaged, the whole file is rejected.
    """
    if frames == "first":
        return stream
    return replace(stream, shards=[PagedShard(shard) for shard in stream.shards])


@dataclass(frozen=True)
class PagedShard:
    """A shard whose files with several images are several samples, as an `InputShard`."""

    shard: InputShard

    @property
    def name(self) -> str:
        """See `InputShard`."""
        return self.shard.name

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return self.shard.fingerprint()

    def content_hash(self) -> str:
        """See `InputShard`."""
        return self.shard.content_hash()

    def read(self) -> Iterator[Sample | Rejected]:
        """See `InputShard`."""
        for sample in self.shard.read():
            if isinstance(sample, Rejected):
                yield sample
            else:
                yield from pages_in(sample)


def pages_in(sample: Sample) -> Iterator[Sample | Rejected]:
    """The samples that a file is, one for each page or frame."""
    places, frames = list[int](), list[bytes]()
    try:
        with reading(sample.image) as image:
            if has_more(image) and image.format == "TIFF":
                places = pages_of(image, MOST_PAGES + 1)
                if len(places) > MOST_PAGES:
                    raise Undecodable(f"the file has more than {MOST_PAGES} pages")
            elif has_more(image):
                frames = _frames(image)
    except Undecodable as error:
        yield reject(sample, str(error), undecodable=True)
        return
    if len(places or frames) < 2:
        yield sample
        return
    prefix, dot, _ = sample.image_ext.rpartition(".")
    for number, content in enumerate(frames or (_first_at(place, sample.image) for place in places)):
        extension = f"{prefix}{dot}{'png' if frames else 'tiff'}"
        yield replace(sample, key=f"{sample.key}-{number:03d}", image=content, image_ext=extension)


def _frames(image: Image.Image) -> list[bytes]:
    """The frames of an animation as they are seen, as PNGs."""
    found = list[bytes]()
    for frame in ImageSequence.Iterator(image):
        if len(found) == MOST_FRAMES or (len(found) + 1) * image.width * image.height > LARGEST_CLIP:
            raise Undecodable(f"more than {MOST_FRAMES} frames, or than {LARGEST_CLIP} pixels in all of them")
        found.append(_saved(frame if frame.mode in ("L", "RGB", "RGBA") else frame.convert("RGBA")))
    return found


def _first_at(place: int, tiff: bytes) -> bytes:
    """The same TIFF, with the page at `place` as its first."""
    big = 43 in tiff[2:4]
    start, width = (8, 8) if big else (4, 4)
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    return tiff[:start] + place.to_bytes(width, order) + tiff[start + width :]


def _saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, icc_profile=image.info.get("icc_profile"))
    return buffer.getvalue()
