"""The figures of an audit from paired originals and releases: plain numbers, T1 and T2 apart, no name and no key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from pipeline.anonymity.attacks.attackers import trained
from pipeline.anonymity.attacks.figures import (
    MembershipFigures,
    RecallFigures,
    RecogniserFigures,
    Searches,
    SearchFigures,
    SourceThreatFigures,
    ThreatFigures,
)
from pipeline.anonymity.attacks.identification import SEARCHES, Search, rates, reidentify, sides, worst_identity
from pipeline.anonymity.attacks.membership import membership, near_copies
from pipeline.anonymity.attacks.photos import THREATS, UNKNOWN, Indices, Pairing, Threat, Vectors
from pipeline.anonymity.attacks.verification import linked, own_thresholds, pair_distances, protection, verification

FEWEST_FACES = 0.9
"""If a face is found in fewer than this fraction of the releases whose source has one, failed recognition proves
little."""
ThresholdsByRecogniser = Mapping[str, Mapping[str, float]]
"""Cosine distances, by recogniser and then by the name of the threshold."""


def thresholds_of(pairing: Pairing, deepface: Mapping[str, float | None]) -> dict[str, dict[str, float]]:
    """Thresholds of each recogniser or layout, by name.

    There is one that separates people on these originals at each FAR, and deepface's own.
    """
    found = {name: own_thresholds(pairing, name) for name in pairing.recognisers}
    return {
        name: own | ({"deepface": threshold} if (threshold := deepface.get(name)) is not None else {})
        for name, own in found.items()
    }


def under(
    threat: Threat,
    pairing: Pairing,
    thresholds: ThresholdsByRecogniser,
    on_recogniser: Callable[[str], None] = lambda name: None,
) -> ThreatFigures:
    """Runs every attack with every recogniser under one threat model; `on_recogniser` is told which one is done.

    Where the threat model has no pairs, `recognisers` is None and `reason` says why.
    """
    if why := missing(threat, pairing):
        return ThreatFigures(statement=THREATS[threat], recognisers=None, reason=why, inversion={})
    by_name = {}
    for name in pairing.recognisers:
        learnt = trained(pairing.made(name), pairing.clean(name), threat)
        by_name[name] = attack(pairing, name, threat, thresholds[name]).model_copy(update={"trained": learnt})
        on_recogniser(name)
    return ThreatFigures(statement=THREATS[threat], recognisers=by_name, inversion={})


def attack(pairing: Pairing, recogniser: str, threat: Threat, thresholds: Mapping[str, float]) -> RecogniserFigures:
    """Runs all searches and comparisons with one recogniser under one threat model; None stands for no pairs."""
    kinds: tuple[Search, ...] = ("clean", "naive", "reverse", "parrot") if threat == "T1" else tuple(SEARCHES)[1:]
    found = {kind: reidentify(pairing, recogniser, kind, threat) for kind in kinds}
    query, gallery, _ = sides(pairing, recogniser, "naive")
    released = pairing.made(recogniser)
    clean = pair_distances(gallery, gallery, threat, same=True) if threat == "T1" else None
    return RecogniserFigures(
        reidentification={kind: rates(one) for kind, one in found.items()},
        clean_verification=verification(clean) if clean else None,
        verification=verification(pair_distances(query, gallery, threat)),
        linkability=linked(pair_distances(released, released, threat, same=True)),
        protection=protection(pairing, recogniser, thresholds, threat),
        worst=worst_identity(found["naive"]),
        trained={},
    )


def missing(threat: Threat, pairing: Pairing) -> str | None:
    """Says in a sentence why nothing can be measured under a threat model; None where it can."""
    if not (pairing.source != UNKNOWN).any():
        return "which release was made from which original is not known: no salt was given, or another one"
    people, counts = np.unique(pairing.person[pairing.person != UNKNOWN], return_counts=True)
    if threat == "T1" and not len(people):
        return "who is in the originals is not known: no identity was given"
    if threat == "T1" and counts.max() < 2:
        return "there are no second photographs: nobody is in two originals"
    return None


def with_copies(
    found: ThreatFigures, pairing: Pairing, others: Mapping[str, Vectors], people: Mapping[str, Indices]
) -> SourceThreatFigures:
    """Adds to the figures of T2 what an attacker with a photograph learns about it: copies, and membership.

    `others` gives unit vectors of images that were not in the input, by recogniser or layout; `people` gives the
    numbers of the people in them, `[B]` each.
    """
    return SourceThreatFigures(
        **dict(found),
        near_copies=near_copies(pairing.released.phash, pairing.originals.phash),
        membership={
            f"{name}, calibrated" if calibrated else name: _member(
                pairing, name, others[name], people[name], calibrated
            )
            for name in others
            for calibrated in (False, True)
        },
    )


def _member(
    pairing: Pairing, name: str, outside: Vectors, people: Indices, calibrated: bool
) -> MembershipFigures | None:
    clean, made = pairing.clean(name), pairing.seen_released(name)
    used = np.isin(clean.photo, pairing.source) if (pairing.source != UNKNOWN).any() else np.ones(len(clean), bool)
    inside = clean[used]
    owner = np.where(inside.person == UNKNOWN, -2 - inside.photo, inside.person)
    return membership(inside.vectors, outside, made, inside_people=owner, outside_people=people, calibrated=calibrated)


def undone(pairing: Pairing, threat: Threat) -> Searches | None:
    """Runs the naive search with images that an attacker has made; None where the threat model has no pairs."""
    if missing(threat, pairing):
        return None
    return {name: rates(reidentify(pairing, name, "naive", threat)) for name in pairing.recognisers}


def findings(t2: SourceThreatFigures, faces: RecallFigures) -> list[str]:
    """One sentence for each thing besides searches that an auditor has to read: membership, copies, lost faces."""
    found = [
        f"T2: {name}: membership can be told, AUC {one.auc:.3f} ({one.low:.3f} to {one.high:.3f})"
        for name, one in t2.membership.items()
        if one and one.low > 0.5
    ]
    near = t2.near_copies
    if near and near.copies:
        found.append(f"T2: {near.copies} of {near.released} released images are near-copies of originals")
    recall = faces.with_face_if_source_has
    if recall is not None and recall < FEWEST_FACES:
        found.append(
            f"utility: a face is found in {recall:.1%} of the releases only; not being recognised proves little"
        )
    return found


def searches(found: ThreatFigures) -> Iterator[tuple[str, str, SearchFigures]]:
    """Yields (recogniser, attack, figures) for all that search, train or undo an operator.

    The search `clean` is left out, because it attacks nothing.
    """
    for name, one in (found.recognisers or {}).items():
        kinds = {k: v for k, v in one.reidentification.items() if k != "clean"} | one.trained
        yield from ((name, kind, figures) for kind, figures in kinds.items() if figures)
    for way, attempt in found.inversion.items():
        for name, figures in (attempt.reidentification or {}).items():
            if figures:
                yield name, way, figures
