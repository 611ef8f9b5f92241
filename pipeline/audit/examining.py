"""The audit itself: faces of both sides → who was made from whom → attacks under T1 and T2, utility → files."""

from __future__ import annotations

import hashlib
import io
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from pipeline import __version__
from pipeline.anonymity.attacks.figures import ThreatFigures, UndoingFigures
from pipeline.anonymity.attacks.photos import THREATS, UNKNOWN, Pairing, Threat
from pipeline.anonymity.attacks.results import (
    ThresholdsByRecogniser,
    findings,
    thresholds_of,
    under,
    undone,
    with_copies,
)
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser, usable
from pipeline.anonymity.gate.attempts import Attempts
from pipeline.audit.config import AuditConfig
from pipeline.audit.gathering import Held, OnImages, Seen, first_size, gather
from pipeline.audit.learning import learn, with_learnt
from pipeline.audit.leaving_out import leave_one_out, unknown
from pipeline.audit.parroting import operator_of
from pipeline.audit.pictures import draw
from pipeline.audit.proving import attack_rates, attackers, findings_of, gate_of, guides_of, judged, worst_people
from pipeline.audit.results import AuditCounts, AuditResults, MadeWith, UtilityFigures
from pipeline.audit.sampling import said
from pipeline.audit.task import Audit, check
from pipeline.audit.undoing import check_model, paired_again, undo
from pipeline.audit.usefulness import useful
from pipeline.audit.verdict import lines
from pipeline.release.evidence import ReleaseEvidence
from pipeline.release.manifest import text_of
from pipeline.streams.private import make_private_folder, write_private

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser


PACKAGES = ("numpy", "torch", "deepface", "dlib-bin", "Pillow")
"""Packages that the figures of an audit hang on."""


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
        names = config.recognisers or usable(config.detector)
        loaded = [load_recogniser(name, workers=config.workers) for name in names]
        examined = examine(task, finder, loaded, on_images=on_images)
    write(task.out, examined)
    return examined.results


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What an audit has found, and what it shows of it."""

    results: AuditResults
    pictures: Mapping[str, tuple[str, bytes]]
    """(caption, PNG) by file name."""
    pairs: Held


def examine(
    task: Audit,
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
    *,
    device: str = "cpu",
    attempts: Attempts | None = None,
    on_images: OnImages = silent,
) -> Examined:
    """Does the work of `audit` with a given detector and recognisers, on a release that has been checked.

    `attempts` are what the job's gate refused, for leaving a recogniser out of it.
    """
    begun = monotonic()
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
    if task.networks:
        on_images("attacks by networks of their own", 0)
        learnt = learn(task, seen, finder, recognisers, device)
        found = {threat: with_learnt(figures, learnt[threat]) for threat, figures in found.items()}
    undoings: dict[Threat, dict[str, UndoingFigures]] = {threat: {} for threat in THREATS}
    for way, (figures, rows, images) in undo(task, seen.pairing, seen.pairs, device):
        again = paired_again(seen.pairing, rows, images, finder, recognisers) if images else None
        for threat in THREATS:
            recognised = undone(again, threat) if again else None
            undoings[threat][way] = UndoingFigures(figures=figures, reidentification=recognised)
    t1, t2 = (found[threat].model_copy(update={"inversion": undoings[threat]}) for threat in THREATS)
    t2 = with_copies(t2, seen.pairing, seen.outside, seen.outside_people)
    utility = useful(seen, finder)
    evidence = proven(task, seen, [one.name for one in recognisers], t1, t2, thresholds, attempts)
    part = [said(seen.sample, seen.unpaired)] if seen.sample else []
    open_ones = (*part, *not_measured(task, t1, t2, utility), *not_left_out(task, seen, attempts))
    evidence = evidence.model_copy(update={"not_measured": open_ones})
    results = AuditResults(
        release=None if task.unsealed else hashlib.sha256(text_of(task.manifest).encode()).hexdigest(),
        authenticity=authenticity(task),
        made_with=made_with(task, size, finder, recognisers, thresholds, monotonic() - begun),
        counts=counts(seen.pairing),
        sample=seen.sample,
        evidence=evidence,
        T1=t1,
        T2=t2,
        utility=utility,
        bound=task.manifest.bound,
        not_measured=evidence.not_measured,
        findings=tuple(findings(t2, utility.faces)),
    )
    return Examined(results=results, pictures=draw(seen.pairing, thresholds, evidence), pairs=seen.pairs)


def proven(
    task: Audit, seen: Seen, names: Sequence[str], t1: ThreatFigures, t2: ThreatFigures,
    thresholds: ThresholdsByRecogniser, attempts: Attempts | None,
) -> ReleaseEvidence:  # fmt: skip
    """What goes into RELEASE.json of the figures, and what of them is not as the release requires."""
    gate, released = gate_of(task.manifest), seen.released
    attacks = tuple(attack_rates("T1", t1, task.require)) + tuple(attack_rates("T2", t2, task.require))
    guides = guides_of(task.manifest)
    who = attackers(names, gate, guides, t1)
    evidence = ReleaseEvidence(
        required=task.require, paired=released - sum(seen.unpaired.values()), attackers=who, attacks=attacks,
        worst_people=(*worst_people("T1", t1), *worst_people("T2", t2)),
        leave_one_out=leave_one_out(seen.pairing, gate, guides, t1, thresholds, attempts, task.require),
        not_measured=(),
    )  # fmt: skip
    return judged(evidence, findings_of(seen.unpaired, released, t1, who, attacks), task.accept)


def made_with(
    task: Audit, size: tuple[int, int], finder: FaceFinder, recognisers: Sequence[Recogniser],
    thresholds: Mapping[str, Mapping[str, float]], seconds: float,
) -> MadeWith:  # fmt: skip
    """What the figures hang on."""
    faces = {one.name for one in recognisers}
    options = {"identity": task.identity, "fit": task.rules.fit, "accept": ", ".join(task.accept) or None,
               "others": "given" if task.others else None, "model": "given" if task.model else None,
               "salt": "given" if task.salt else None}  # fmt: skip
    return MadeWith(
        detector=finder.detector, detector_weights=finder.weights, size=size, fit=task.rules.fit,
        recognisers={one.name: one.weights for one in recognisers},
        thresholds={name: dict(found) for name, found in thresholds.items() if name in faces},
        date=datetime.now(UTC).date().isoformat(),
        seconds=round(seconds, 1),
        versions=versions(),
        options={name: value for name, value in options.items() if value is not None},
    )  # fmt: skip


def versions() -> dict[str, str]:
    """The versions of doppel, of Python, and of those packages that are installed and that figures hang on."""
    found = {"doppel": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


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


def not_measured(task: Audit, t1: ThreatFigures, t2: ThreatFigures, utility: UtilityFigures) -> tuple[str, ...]:
    """Sentences that say what the audit leaves open, and what it would need for it."""
    reasons = [f"{name}: {figures.reason}" for name, figures in (("T1", t1), ("T2", t2)) if figures.reason]
    if task.others is None:
        reasons.append("T2, membership: no images were given that were not in the input")
    if task.model is None:
        reasons.append("inverse ODE: the job's model was not given")
    if not task.networks:
        reasons.append("networks trained on the release's pairs, and its operator run by the attacker: networks is off")
    elif isinstance(why := operator_of(task), str):
        reasons.append(f"gallery put through the same operator: {why}")
    elif task.manifest.facts.get("guidance"):
        reasons.append("gallery put through the same operator with its guidance: the attackers ran it without")
    if utility.task is None:
        reasons.append(f"task classifier: {untaught(task)}")
    reasons += [f"attribute {name}: {why}" for name, why in utility.attributes.items() if isinstance(why, str)]
    return tuple(reasons)


def not_left_out(task: Audit, seen: Seen, attempts: Attempts | None) -> tuple[str, ...]:
    """Sentences that say which recognisers could not be left out of the gate."""
    gate, guides = gate_of(task.manifest), guides_of(task.manifest)
    reasons = [f"leaving out {name}: images were led away from what this family sees" for name in guides]
    if attempts is None:
        return (*reasons, "leaving out recognisers of the gate: only the job knows what its gate refused")
    reasons += [f"leaving out {gate[0]}: it is the whole gate"] * (len(gate) == 1)
    if count := unknown(seen.pairing, attempts):
        reasons.append(
            f"leaving out recognisers of the gate: {count} images were judged before attempts were kept, and count as "
            "released"
        )
    return tuple(reasons)


def untaught(task: Audit) -> str:
    """Why no classifier was trained on the release, in words."""
    labels = task.manifest.labels
    if labels is None:
        return "the release has no labels"
    if len(labels) < 2:
        return "the release has one label only"
    return "too few labelled images are paired with a labelled original to train on some and to test on others"


def write(out: Path, examined: Examined) -> None:
    """Writes `audit.json`, `report.html`, the pictures, and `before_after.png`."""
    from pipeline.report.audit_page import html_report
    from pipeline.report.sheet import contact_sheet

    results, pictures, pairs = examined.results, examined.pictures, examined.pairs
    told = results.model_dump()
    for name, (_, content) in pictures.items():
        write_private(out / name, content)
    if len(pairs.rows):
        shown, sheet = [("original", pairs.sources[:12]), ("released", pairs.released[:12])], io.BytesIO()
        contact_sheet(shown, cell=96).save(sheet, "PNG")
        write_private(out / "before_after.png", sheet.getvalue())
    write_private(out / "report.html", html_report(told, lines(results), dict(pictures.values())).encode())
    write_private(out / "audit.json", json.dumps(told, indent=1, allow_nan=False).encode() + b"\n")
