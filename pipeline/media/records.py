"""The records that travel: a `Sample` from a shard, a `Batch` of decoded images, a `Rejected` with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline.media.provenance import Provenance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels8 = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with everything that belongs to it, still encoded.

    `members` holds every other member of the sample byte for byte, by extension (`cls`, `json`, `txt`,
    `seg.png`, …), in the order they were read.
    """

    key: str
    image: bytes
    image_ext: str
    """Extension of the image member as found, without the leading dot: `jpg`, `left.png`."""
    label: int | None = None
    members: Mapping[str, bytes] = field(default_factory=dict)
    origin: str = ""
    """Where it was read, for people: `shard.tar:member.jpg`, `part.parquet:row 17`, `cat/001.jpg`."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A sample that will not be written, why, and its original bytes, which go to the quarantine.

    `undecodable`: the bytes are no complete, safe image or sample. `refused`: the image is sound, but the job
    cannot use it (label missing or out of range, duplicate key, …).
    """

    key: str
    reason: str
    kind: Literal["undecodable", "refused"]
    origin: str
    members: Mapping[str, bytes] = field(default_factory=dict)


def reject(sample: Sample, reason: str, *, undecodable: bool) -> Rejected:
    return Rejected(
        key=sample.key,
        reason=reason,
        kind="undecodable" if undecodable else "refused",
        origin=sample.origin,
        members={sample.image_ext: sample.image, **sample.members},
    )


@dataclass(frozen=True, kw_only=True)
class Reel:
    """A clip without its frames; see `pipeline.media.clips.Clip`."""

    container: Literal["mp4", "gif"]
    seconds: tuple[float, ...]
    """How long each frame is shown."""
    loop: int | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How an image was fitted to the model's size, so that it can be undone (sizes are width, height)."""

    mode: Literal["L", "RGB"]
    full: tuple[int, int]
    """Size of the original."""
    size: tuple[int, int]
    """Size, in the original, of the part that the model sees."""
    box: tuple[int, int, int, int]
    """Where that part lies in what the model sees: left, top, right, bottom."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample and its decoded image, uint8 `[H, W, 3]`; of a sample that is a clip, one of its frames."""

    sample: Sample
    frame: Frame
    image: Pixels8
    noise_key: str
    """What its noise is derived from: its own key, or that of its clip."""
    mask: Pixels8 | None = None
    """0 or 1, `[H, W]`; 1 where the image is to change."""
    caption: str | None = None
    """Its prompt, where the model takes one."""
    edited: str | None = None
    """The same of what it is to become."""
    guides: tuple[Pixels8, ...] = ()
    """`[H, W, 3]` each."""
    reel: Reel | None = None
    """Of the clip that the sample is."""
    index: int = 0
    """Of the frame in its clip."""

    @property
    def ends(self) -> bool:
        """It is the last of its sample."""
        return self.reel is None or self.index == len(self.reel.seconds) - 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some of the rows of one shard, in order; all images have one size where a model will see them.

    The frames of a clip follow each other, and may go on in the next batch.
    """

    shard: str
    fingerprint: str
    """Of the shard, taken before it was read."""
    rows: list[Row]
    rejected: list[Rejected] = field(default_factory=list)
    read: int
    """Samples that came out of the shard for this batch, good or bad."""
    last: bool
    """The shard ends with this batch, which may have no rows."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """One transformed image, uint8 `[H, W, 3]`, still in the model's size."""

    row: Row
    image: Pixels8
    provenance: Provenance
    beside: Mapping[str, Pixels8] = field(default_factory=dict)
    """Further images of the same sample, by name."""


Result = list[Output] | str
"""The outputs of a row, or why there are none."""
