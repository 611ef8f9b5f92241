"""The records that a job writes about itself and reads again: job.json, shards/NAME.json, manifest.json."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from pipeline.media.output_keys import Shape
from pipeline.media.versioned import Text, Versioned
from pipeline.section import Section
from pipeline.streams.files import Stored

FOLDERS = ("data", "quarantine", "provenance")
"""The folders of a job that hold what its shards have written."""


def _inside(path: str) -> str:
    first, *parts = path.split("/")
    if first not in FOLDERS or not parts or {"", ".", ".."} & set(parts) or "\0" in path:
        raise ValueError(f"{path!r} is no file of a job; it must lie in one of its folders {', '.join(FOLDERS)}")
    return path


OwnFile = Annotated[Text, AfterValidator(_inside)]
"""The path of a file below the job's folder, which leads nowhere else."""


class StatedLicence(Section):
    """The licence of a model's weights, as its card states it."""

    name: str
    link: str | None
    noncommercial: bool


class Job(Versioned):
    """The record job.json: what the job is."""

    config: dict[str, Any]
    """The recipe without places, as JSON: what decides the bytes."""
    hashes: dict[str, str]
    """A hash of each part: configuration, model, code, salt and more."""
    outputs: Shape
    """The outputs that it makes of each sample."""
    licences: dict[Text, StatedLicence]
    """The licences of all weights, by the path of the model."""
    found: tuple[float, float] | None = None
    """The numbers that `image.range` stands for, where it is a percentile."""
    classes: dict[Text, Text] | None = None
    """The model's class of each class of the data set, by names where there are any; None where no model asks."""


class Counts(Section):
    """Numbers of samples that came in, except `images` and `damaged`; read = written + quarantined + undecodable."""

    read: int = 0
    written: int = 0
    images: int = 0
    """Samples that were written; a clip counts as one."""
    quarantined: int = 0
    undecodable: int = 0
    damaged: int = 0
    """Places where a shard is damaged; nobody knows how many samples are lost there."""
    unread: int = 0
    """Samples whose label is there, but cannot be read, whether they were written or not."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: count + getattr(other, name) for name, count in self})

    @property
    def in_quarantine(self) -> int:
        """How many samples were not written, for whatever reason."""
        return self.quarantined + self.undecodable


class FlickerMeans(Section):
    """The mean |frame_t − frame_{t−1}| over all clips, in grey levels (0 to 255), before and after."""

    inputs: float
    outputs: float


class GateTotals(Section):
    """What the gate said about the images that passed."""

    attempts: dict[int, int]
    """Images by the round that passed; 0 is the operator's own level."""
    others_within: dict[str, int]
    """By recogniser, how often a face was within the threshold of another person's."""
    faces: int
    """How many faces were judged."""


class ShardRecord(Versioned):
    """The record shards/NAME.json: how a finished shard came to be."""

    version: int = 2
    shard: Text
    fingerprint: Text
    """Fingerprint of its input, taken before it was read, which is fast to compare."""
    input_hash: Text
    """sha256 of its input."""
    classes: str = ""
    """Hash of the names of the classes and the columns of its input."""
    code: str
    """doppel's version and the beginning of the code's hash."""
    hashes: dict[str, str]
    """The hashes of the job that made it."""
    cut: bool = False
    """Whether a limit kept the rest of the shard from being read."""
    counts: Counts
    notes: dict[str, int] = Field(default_factory=dict)
    """What people should know of how samples were understood: a sentence, and how many samples it is about."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Why samples lie in quarantine, with their numbers, the commonest first; see `pipeline.streams.reasons`."""
    files: dict[OwnFile, Stored]
    """What each file holds, by its path below the job's folder."""
    seconds: float
    """How long it took."""
    ended: str = ""
    """When it was done, by the calendar of the machine that did it: for people, and to tell it from a record before."""
    flicker: FlickerMeans | None = None
    """How much clips flicker; None without clips."""
    anonymity: GateTotals | None = None
    """What the gate said; None without a gate."""


class JobInput(Versioned):
    """The record input.json: what the input was when a run last began."""

    shards: int


class FolderLine(Versioned):
    """A line of provenance/NAME.provenance.jsonl: one sample of a shard in folder output."""

    file: Text
    """The path of the image below data/."""
    sidecars: tuple[Text, ...]
    """The paths of the other files of the sample."""
    provenance: dict[str, Any] | None
    """The provenance of the image."""

    @field_validator("file", "sidecars")
    @classmethod
    def _in_data(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for path in (value,) if isinstance(value, str) else value:
            _inside(f"data/{path}")
        return value


class Finished(Section):
    """How many shards are done, and of how many."""

    finished: int
    total: int


class Manifest(Job):
    """The record manifest.json: totals over all finished shards."""

    version: int = 2
    complete: bool
    """Whether all shards are done."""
    shards: Finished
    gone: tuple[Text, ...] = ()
    """Finished shards that are no longer in the input; what they wrote is still there, and counted here."""
    changed: tuple[Text, ...] = ()
    """Finished shards that were kept, although their input has changed since."""
    aside: dict[Text, Text] = Field(default_factory=dict)
    """Shards that are set aside, and of what the last process died that held one; see `pipeline.streams.asides`."""
    counts: Counts
    notes: dict[str, int] = Field(default_factory=dict)
    """The notes of all shards, each with the number of samples it is about."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Why samples lie in quarantine, with their numbers, the commonest first; see `pipeline.streams.reasons`."""
    seconds: float
    """The sum over the shards."""
    files: dict[OwnFile, Stored]
    """What each file holds, by its path below the job's folder."""

    def stale(self) -> str | None:
        """Why nothing of the job may be released, although it is complete; None where its input is as it was."""
        if not self.gone and not self.changed:
            return None
        return (
            f"the input of {len(self.gone)} finished shards is gone, and that of {len(self.changed)} has changed, so "
            "nothing is released: --prune removes the former, --redo-changed does the latter again"
        )
