"""The results of an audit, as they stand in `audit.json`: no names and no keys."""

from __future__ import annotations

from pipeline.anonymity.attacks.figures import (
    Agreements,
    PoseFigures,
    RecallFigures,
    SourceThreatFigures,
    TaskFigures,
    ThreatFigures,
)
from pipeline.anonymity.bound.figures import SourceBound
from pipeline.media.fitting import Fit
from pipeline.media.versioned import Versioned
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
    psnr: Likeness
    attributes: Agreements
    task: TaskFigures | None


class AuditResults(Versioned):
    """Everything that an audit has found."""

    version: int = 3
    release: str
    """sha256 of RELEASE.json, in hexadecimal."""
    authenticity: str
    """Whether the salt has told that RELEASE.json was not computed anew by somebody else, in words."""
    made_with: MadeWith
    counts: AuditCounts
    failed: tuple[str, ...]
    """Sentences that say for how many images the audit proves nothing, and why; empty where it is complete."""
    T1: ThreatFigures
    T2: SourceThreatFigures
    utility: UtilityFigures
    bound: SourceBound | None
    """What RELEASE.json says of the best attacker who holds the originals; None where it says nothing."""
    not_measured: tuple[str, ...]
    """Sentences that say what the audit leaves open, and what it would need for it."""
    findings: tuple[str, ...]
    """Sentences to be read first."""
