"""The records that travel: a `Sample` from a shard, a `Batch` of decoded images, a `Rejected` with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.media.frame import Frame
from pipeline.media.provenance import Provenance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels8 = NDArray[np.uint8]


class Unread(NamedTuple):
    """What stands in the place of a label, where it is no number of a class."""

    kind: Literal["name", "number", "several", "unreadable"]
    """A text that may name a class; a number, where only names count; several classes, or a weight for each; or
    something that cannot be read."""
    text: str
    """What stands there; a long one is cut."""


UNREAD = {
    "name": "the label is a text that names no class",
    "number": "the label is a number where only names of classes count",
    "several": "the label holds several classes or weights",
    "unreadable": "the label cannot be read",
}
"""What stands in the place of a label, in words; see `Unread`."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with everything that belongs to it, still encoded."""

    key: str
    """The name of the sample in its shard."""
    shard: str = ""
    """Name of its shard, where other shards may have samples of the same key; empty where keys are unique anyway, as
    the paths in a folder are."""
    image: bytes
    """The bytes of the image member."""
    image_ext: str
    """Extension of the image member as found, without the leading dot: `jpg`, `left.png`."""
    label: int | None = None
    """Number of the class, where there is one."""
    unread: Unread | None = None
    """What stands in the place of the label, where that is no number."""
    members: Mapping[str, bytes] = field(default_factory=dict)
    """Every other member of the sample byte for byte, by extension (`cls`, `json`, `txt`, `seg.png`, …), in the order
    they were read."""
    origin: str = ""
    """The place where it was read, for people: `shard.tar:member.jpg`, `part.parquet:row 17`, `cat/001.jpg`."""

    @property
    def full_key(self) -> str:
        """The name of the sample in its data set: SHARD/KEY, or KEY where keys are unique anyway."""
        return full_key(self.shard, self.key)


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A sample that will not be written, the reason, and its original bytes, which go to the quarantine."""

    key: str
    reason: str
    kind: Literal["undecodable", "refused", "damaged"]
    """With `undecodable`, the bytes are no complete, safe image or sample. With `refused`, the image is sound, but the
    job cannot use it (label missing or out of range, duplicate key, …). With `damaged`, it is no sample but a place in
    its shard, where nobody knows how many samples are lost."""
    origin: str
    members: Mapping[str, bytes] = field(default_factory=dict)
    unread: Unread | None = None
    """What stands in the place of its label, where that is no number."""


def full_key(shard: str, key: str) -> str:
    """What a sample is called among all shards; see `Sample.shard`."""
    return f"{shard}/{key}" if shard else key


def reject(sample: Sample, reason: str, *, undecodable: bool) -> Rejected:
    """The rejection of a sample, with all its members."""
    return Rejected(
        key=sample.key,
        reason=reason,
        kind="undecodable" if undecodable else "refused",
        origin=sample.origin,
        members={sample.image_ext: sample.image, **sample.members},
        unread=sample.unread,
    )


@dataclass(frozen=True, kw_only=True)
class Reel:
    """A clip without its frames; see `pipeline.media.clips.Clip`."""

    container: Literal["mp4", "gif"]
    seconds: tuple[float, ...]
    """How long each frame is shown."""
    loop: int | None = None
    """How often a GIF is played again; see `Clip.loop`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample and its decoded image, uint8 RGB `[H, W, 3]`; where the sample is a clip, one of its frames."""

    sample: Sample
    frame: Frame
    """Where the image lies in its source, and in the output."""
    image: Pixels8
    """uint8 RGB `[H, W, 3]`, in the model's size where there is a model."""
    noise_key: str
    """The text that its noise is derived from: its full key, or that of its clip."""
    label: int | None = None
    """The model's number of the class, where the model takes one; `sample.label` is the data set's."""
    copies: int | None = None
    """How many outputs are made of it, where that is not the operator's number."""
    mask: Pixels8 | None = None
    """uint8 `[H, W]` of 0 and 1; 1 where the image is to change."""
    captions: tuple[str, ...] = ()
    """The prompt of each copy, where the model takes one."""
    edited: tuple[str, ...] = ()
    """The caption of each copy as it is to become."""
    guides: tuple[Pixels8, ...] = ()
    """uint8 RGB `[H, W, 3]` each."""
    reel: Reel | None = None
    """The clip that the sample is; None for a single image."""
    content: str | None = None
    """The hash of all pixels of its source, see `content_hash`; None for a clip."""
    index: int = 0
    """Number of the frame in its clip, from 0."""
    moved: Mapping[str, bytes] = field(default_factory=dict)
    """Members that follow the geometry of the output, which take the place of the sample's."""

    notes: tuple[str, ...] = ()
    """What people should know of how the sample was understood, each a sentence without names, keys or values. How
    many samples have it is counted; see `ShardRecord.notes`."""

    @property
    def ends(self) -> bool:
        """Whether this is the last row of its sample."""
        return self.reel is None or self.index == len(self.reel.seconds) - 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some of the rows of one shard, in order; all images have one size where a model will see them.

    The frames of a clip follow each other, and may go on in the next batch.
    """

    shard: str
    """Name of the shard."""
    fingerprint: str
    """Fingerprint of the shard, taken before it was read."""
    rows: list[Row]
    rejected: list[Rejected] = field(default_factory=list)
    read: int
    """How many samples came out of the shard for this batch, good or bad."""
    last: bool
    """Whether the shard ends with this batch, which may have no rows."""
    cut: bool = False
    """Whether a limit ends the shard here, before its last sample."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """One transformed image, uint8 `[H, W, 3]`, still in the model's size."""

    row: Row
    image: Pixels8
    provenance: Provenance
    beside: Mapping[str, Pixels8] = field(default_factory=dict)
    """Further images that lie in the same sample, by name."""


Result = list[Output] | str
"""The outputs of a row, or why there are none."""
