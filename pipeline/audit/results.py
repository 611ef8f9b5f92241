"""What an audit says: `audit.json`, without names and keys."""

from __future__ import annotations

from pipeline.anonymity.attacks.figures import (
    Agreements,
    PoseFigures,
    RecallFigures,
    SourceThreatFigures,
    TaskFigures,
    ThreatFigures,
)
from pipeline.media.pixels import Fit
from pipeline.media.versioned import Versioned
from pipeline.section import Section


class MadeWith(Section):
    """What was looked with."""

    detector: str
    detector_weights: str
    size: tuple[int, int]
    """Height and width."""
    fit: Fit
    recognisers: dict[str, str]
    """Weights, by name."""


class AuditCounts(Section):
    originals: int
    originals_with_face: int
    released: int
    released_with_face: int
    paired_with_source: int
    """Released images."""
    people: int
    people_with_two_photographs: int


class Likeness(Section):
    """PSNR of released images to their sources, in dB."""

    pairs: int
    mean: float | None
    """Over those that differ."""
    unchanged: int
    """Pairs of equal images."""


class UtilityFigures(Section):
    """What the release is still good for."""

    faces: RecallFigures
    pose: PoseFigures | None
    psnr: Likeness
    attributes: Agreements
    task: TaskFigures | None


class AuditResults(Versioned):
    version: int = 2
    release: str
    """sha256 of its RELEASE.json."""
    made_with: MadeWith
    counts: AuditCounts
    failed: tuple[str, ...]
    """Why the audit proves nothing of some images; empty where it is complete."""
    T1: ThreatFigures
    T2: SourceThreatFigures
    utility: UtilityFigures
    not_measured: tuple[str, ...]
    """What the audit says nothing of, and what it would need."""
    findings: tuple[str, ...]
    """What to read first."""
