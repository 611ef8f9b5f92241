"""The audit itself: faces of both sides → who was made from whom → attacks under T1 and T2, utility → files."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.attacks.figures import ThreatFigures, UndoingFigures
from pipeline.anonymity.attacks.photos import THREATS, UNKNOWN, Pairing, Threat
from pipeline.anonymity.attacks.results import findings, thresholds_of, under, undone, with_copies
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.audit.config import AuditConfig
from pipeline.audit.gathering import Held, OnImages, Seen, first_size, gather
from pipeline.audit.pictures import draw
from pipeline.audit.results import AuditCounts, AuditResults, MadeWith, UtilityFigures
from pipeline.audit.task import Audit, check
from pipeline.audit.undoing import check_model, paired_again, undo
from pipeline.audit.usefulness import useful
from pipeline.release.manifest import text_of
from pipeline.streams.private import make_private_folder, write_private

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser


def silent(what: str, count: int) -> None:
    pass


def audit(config: AuditConfig, on_images: OnImages = silent) -> AuditResults:
    """Audits a release: writes `audit.json`, `report.html` and pictures into `config.output`, and returns the first.

    Raises `UserError` that names the file where the release is not as it was sealed, and also for folders that lie in
    each other and for a missing recogniser.
    """
    task = config.task()
    check(task)
    with FaceFinder(config.detector, workers=config.workers) as finder:
        loaded = [load_recogniser(name, workers=config.workers) for name in config.recognisers]
        return examine(task, finder, loaded, on_images=on_images)


def examine(
    task: Audit,
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
    *,
    device: str = "cpu",
    on_images: OnImages = silent,
) -> AuditResults:
    """Does the work of `audit` with a given detector and recognisers, on a release that has been checked."""
    for folder in (task.out, task.out / "faces"):
        make_private_folder(folder)
    size = task.size or first_size(task.release)
    check_model(task.model, size)
    seen = gather(task, size, finder, recognisers, on_images)
    thresholds = thresholds_of(seen.pairing, {one.name: one.threshold for one in recognisers})
    found: dict[Threat, ThreatFigures] = {
        threat: under(threat, seen.pairing, thresholds, lambda name: on_images(f"attacks by {name}", 0))
        for threat in THREATS
    }
    undoings: dict[Threat, dict[str, UndoingFigures]] = {threat: {} for threat in THREATS}
    for way, (figures, rows, images) in undo(task, seen.pairs, device):
        again = paired_again(seen.pairing, rows, images, finder, recognisers) if images else None
        for threat in THREATS:
            recognised = undone(again, threat) if again else None
            undoings[threat][way] = UndoingFigures(figures=figures, reidentification=recognised)
    t1, t2 = (found[threat].model_copy(update={"inversion": undoings[threat]}) for threat in THREATS)
    t2 = with_copies(t2, seen.pairing, seen.outside, seen.outside_people)
    utility = useful(seen, finder)
    made_with = MadeWith(
        detector=finder.detector, detector_weights=finder.weights, size=size, fit=task.rules.fit,
        recognisers={one.name: one.weights for one in recognisers},
    )  # fmt: skip
    results = AuditResults(
        release=hashlib.sha256(text_of(task.manifest).encode()).hexdigest(),
        authenticity=authenticity(task),
        made_with=made_with,
        counts=counts(seen.pairing),
        failed=failures(seen),
        T1=t1,
        T2=t2,
        utility=utility,
        bound=task.manifest.bound,
        not_measured=not_measured(task, t1, t2, utility),
        findings=tuple(findings(t1, t2, utility.faces)),
    )
    write(task.out, results, draw(seen.pairing, thresholds), seen.pairs)
    return results


def counts(pairing: Pairing) -> AuditCounts:
    """How many images, faces and people there are on both sides, and how many images are paired with their source."""
    people, each = np.unique(pairing.person[pairing.person != UNKNOWN], return_counts=True)
    return AuditCounts(
        originals=len(pairing.originals.keys),
        originals_with_face=len(pairing.originals.first_faces()),
        released=len(pairing.released.keys),
        released_with_face=len(pairing.released.first_faces()),
        paired_with_source=int((pairing.source != UNKNOWN).sum()),
        people=len(people),
        people_with_two_photographs=int((each > 1).sum()),
    )


def authenticity(task: Audit) -> str:
    """Whether the salt has told that RELEASE.json is authentic, which `check` has seen to."""
    if task.unsealed is not None:
        return "not sealed yet"
    if task.salt is None:
        return "not checked: no salt was given, so RELEASE.json may have been changed and computed anew"
    return "checked: RELEASE.json was written by whoever has the salt"


def failures(seen: Seen) -> tuple[str, ...]:
    """Sentences that say for how many images the audit proves nothing, and why.

    An image that is paired with no original is attacked only in part.
    """
    released = len(seen.pairing.released.keys)
    return tuple(
        f"{count} of {released} released images are paired with no original: {reason}"
        for reason, count in sorted(seen.unpaired.items())
    )


def not_measured(task: Audit, t1: ThreatFigures, t2: ThreatFigures, utility: UtilityFigures) -> tuple[str, ...]:
    """Sentences that say what the audit leaves open, and what it would need for it."""
    reasons = [f"{name}: {figures.reason}" for name, figures in (("T1", t1), ("T2", t2)) if figures.reason]
    if task.others is None:
        reasons.append("T2, membership: no images were given that were not in the input")
    if task.model is None:
        reasons.append("inverse ODE: the job's model was not given")
    if utility.task is None:
        reasons.append("task classifier: the release has fewer than two labels")
    reasons += [f"attribute {name}: {why}" for name, why in utility.attributes.items() if isinstance(why, str)]
    return tuple(reasons)


def write(out: Path, results: AuditResults, pictures: Mapping[str, tuple[str, bytes]], pairs: Held) -> None:
    """Writes `audit.json`, `report.html`, the pictures, and `before_after.png`.

    `pictures` holds (caption, PNG) by file name.
    """
    from pipeline.report.audit_page import html_report
    from pipeline.report.sheet import contact_sheet

    told = results.model_dump()
    for name, (_, content) in pictures.items():
        write_private(out / name, content)
    if len(pairs.rows):
        shown, sheet = [("original", pairs.sources[:12]), ("released", pairs.released[:12])], io.BytesIO()
        contact_sheet(shown, cell=96).save(sheet, "PNG")
        write_private(out / "before_after.png", sheet.getvalue())
    write_private(out / "report.html", html_report(told, dict(pictures.values())).encode())
    write_private(out / "audit.json", json.dumps(told, indent=1, allow_nan=False).encode() + b"\n")
