"""What a job reports while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.media.records import Unread
from pipeline.streams.asides import Aside
from pipeline.streams.job_records import ShardRecord


@dataclass(frozen=True)
class Progress:
    """Some images of a shard have been written or rejected; a clip counts as one."""

    read: int
    """Samples of the shard that came in for them."""
    images: int
    rejected: int
    unread: tuple[Unread, ...] = ()
    """What stands in the place of labels that cannot be read."""

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            read=self.read + other.read,
            images=self.images + other.images,
            rejected=self.rejected + other.rejected,
            unread=self.unread + other.unread,
        )


@dataclass(frozen=True)
class TakenBack:
    """A worker died: what it told of shards that it had not finished no longer counts."""

    told: Progress


@dataclass(frozen=True)
class ShardDone:
    """A shard is complete and recorded."""

    record: ShardRecord


@dataclass(frozen=True)
class SetAside:
    """A shard is given up for now."""

    aside: Aside


@dataclass(frozen=True)
class Scanned:
    """Some more originals have been scanned for faces."""

    images: int


@dataclass(frozen=True)
class Noted:
    """Something that people should know, in one sentence."""

    text: str


Event = Scanned | Progress | TakenBack | ShardDone | SetAside | Noted
