"""The results of an audit, as they stand in `audit.json`: no names and no keys."""

from __future__ import annotations

from pipeline.anonymity.attacks.figures import (
    Agreements,
    LandmarkFigures,
    PoseFigures,
    RecallFigures,
    SourceThreatFigures,
    TaskFigures,
    ThreatFigures,
)
from pipeline.anonymity.bound.figures import SourceBound
from pipeline.media.fitting import Fit
from pipeline.media.versioned import Versioned
from pipeline.release.evidence import ReleaseEvidence
from pipeline.section import Section


class MadeWith(Section):
    """The detector, the recognisers and the size that images were looked at with."""

    detector: str
    detector_weights: str
    size: tuple[int, int]
    """Height and width in pixels."""
    fit: Fit
    recognisers: dict[str, str]
    """The sha256 of each recogniser's weight files, by its name."""
    thresholds: dict[str, dict[str, float]]
    """Cosine distances by recogniser and name: a false acceptance rate on these originals, or `deepface`, its own."""
    date: str
    """The day of the audit, as in 2026-11-27 (UTC)."""
    seconds: float
    """How long the machine attacked."""
    versions: dict[str, str]
    """The versions of doppel, Python and the packages that figures hang on."""
    options: dict[str, str]
    """What the audit was told, without places and secrets, as text."""


class AuditCounts(Section):
    """How many images, faces and people there are on both sides."""

    originals: int
    originals_with_face: int
    """Originals in which a face was found."""
    released: int
    """Images in the release."""
    released_with_face: int
    """Released images in which a face was found."""
    paired_with_source: int
    """Released images whose original is known."""
    people: int
    """Known people in the originals."""
    people_with_two_photographs: int
    """Known people in two originals or more."""


class SampleFigures(Section):
    """How much of a large release was attacked."""

    originals: int
    """Originals in the sample; the counts are of these."""
    of_originals: int
    """All originals."""
    released: int
    of_released: int
    people: int
    """People in the sample; of unknown people, each original is one."""
    of_people: int


class Likeness(Section):
    """The PSNR of released images to their sources, in dB."""

    pairs: int
    """How many pairs were compared."""
    mean: float | None
    """The mean over pairs that differ; None where none does."""
    unchanged: int
    """How many pairs are of equal images."""


class UtilityFigures(Section):
    """The figures of what the release is still good for."""

    faces: RecallFigures
    pose: PoseFigures | None
    landmarks: LandmarkFigures | None
    psnr: Likeness
    attributes: Agreements
    task: TaskFigures | None


class AuditResults(Versioned):
    """Everything that an audit has found."""

    version: int = 4
    release: str | None
    """sha256 of RELEASE.json, in hexadecimal; None where the release was not sealed."""
    authenticity: str
    """Whether the salt has told that RELEASE.json was not computed anew by somebody else, in words."""
    made_with: MadeWith
    counts: AuditCounts
    sample: SampleFigures | None = None
    """What of the release was looked at; None for all of it."""
    evidence: ReleaseEvidence
    """What of it goes into RELEASE.json: every attack, what is required, and what is not met."""
    T1: ThreatFigures
    T2: SourceThreatFigures
    utility: UtilityFigures
    bound: SourceBound | None
    """What RELEASE.json says of the best attacker who holds the originals; None where it says nothing."""
    not_measured: tuple[str, ...]
    """Sentences that say what the audit leaves open, and what it would need for it."""
    findings: tuple[str, ...]
    """Sentences to be read first, besides the attacks."""
