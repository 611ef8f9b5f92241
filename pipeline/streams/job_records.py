"""What a job writes of itself into its folder, and reads again: job.json, shards/NAME.json, manifest.json."""

from __future__ import annotations

from typing import Any

from pipeline.media.output_keys import Shape
from pipeline.media.versioned import Text, Versioned
from pipeline.section import Section


class StatedLicence(Section):
    """Of a model's weights, as its card states it."""

    name: str
    link: str | None
    noncommercial: bool


class Job(Versioned):
    """job.json: what the job is."""

    config: dict[str, Any]
    """Its recipe without places, as JSON: what decides the bytes."""
    hashes: dict[str, str]
    """By part: configuration, model, code, salt and more."""
    outputs: Shape
    licences: dict[Text, StatedLicence]
    """By the path of the model."""


class Counts(Section):
    """read = written + quarantined + undecodable; all but `images` count samples that came in."""

    read: int = 0
    written: int = 0
    images: int = 0
    """Output samples; a clip counts as one."""
    quarantined: int = 0
    undecodable: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: count + getattr(other, name) for name, count in self})

    @property
    def in_quarantine(self) -> int:
        """Samples that were not written, for whatever reason."""
        return self.quarantined + self.undecodable


class FlickerMeans(Section):
    """Mean |frame_t − frame_{t−1}| over all clips, in grey levels (0 to 255), before and after."""

    inputs: float
    outputs: float


class GateTotals(Section):
    """What the gate said of the images that passed."""

    attempts: dict[int, int]
    """Images by the attempt that passed; 0 is the operator's own level."""
    others_within: dict[str, int]
    """Matches with other people, by recogniser."""
    faces: int


class ShardRecord(Versioned):
    """shards/NAME.json: how a finished shard came to be."""

    shard: Text
    fingerprint: Text
    """Of its input, taken before it was read: fast to compare."""
    input_hash: Text
    """sha256 of its input."""
    code: str
    hashes: dict[str, str]
    """Of the job that made it."""
    counts: Counts
    files: dict[Text, str]
    """Path below the job's folder → sha256."""
    seconds: float
    flicker: FlickerMeans | None = None
    anonymity: GateTotals | None = None


class Finished(Section):
    """How many shards are done, of how many."""

    finished: int
    total: int


class Manifest(Job):
    """manifest.json: totals over all finished shards."""

    complete: bool
    shards: Finished
    counts: Counts
    seconds: float
    files: dict[Text, str]
    """Path below the job's folder → sha256."""
