"""What a job tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.streams.job_records import ShardRecord


@dataclass(frozen=True)
class Progress:
    """Some images of a shard are through; a clip counts as one."""

    images: int
    rejected: int


@dataclass(frozen=True)
class ShardDone:
    record: ShardRecord


@dataclass(frozen=True)
class Scanned:
    """Some originals were scanned for faces."""

    images: int


Event = Scanned | Progress | ShardDone
