"""The pictures of an audit, from paired originals and releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.anonymity.attacks.identification import SearchResult, chance, reidentify, sides
from pipeline.anonymity.attacks.photos import THREATS, Pairing, Threat, Vectors
from pipeline.anonymity.attacks.results import ThresholdsByRecogniser, missing
from pipeline.anonymity.attacks.verification import pair_distances
from pipeline.anonymity.faces.metrics import roc
from pipeline.release.evidence import ReleaseEvidence
from pipeline.report.audit_plots import Interval, distance_histograms, intervals, match_curves, png, roc_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = 20
"""The largest rank that is drawn."""
SHOWN = 16
"""Attacks that are drawn of each threat model, at most."""


def draw(
    pairing: Pairing, thresholds: ThresholdsByRecogniser, evidence: ReleaseEvidence
) -> dict[str, tuple[str, bytes]]:
    """(caption, PNG) by file name; what a threat model has no pairs for is left out."""
    measured = [threat for threat in THREATS if missing(threat, pairing) is None]
    if not measured:
        return {}
    found = {t: {n: reidentify(pairing, n, "naive", t) for n in pairing.recognisers} for t in measured}
    return {
        "attacks.png": (
            "How many people each attack finds first, with its 95 % interval, beside what guessing finds (open mark) "
            "and what is allowed (dashed). An interval that lies wholly to the right of the dashed mark is too much.",
            png(_attacks(evidence)),
        ),
        "distances.png": (
            "How far released faces are from faces of the same person (blue) and of others (orange). Where the two "
            "lie upon each other, the recogniser cannot tell them apart; the clean photographs (green) show what it "
            "can do. Dashed: thresholds.",
            png(_distances(pairing, measured, thresholds)),
        ),
        "roc.png": (
            "Telling mates from strangers, released against originals: a curve on the dotted line is guessing.",
            png(_roc(pairing, measured)),
        ),
        "cmc.png": (
            "Naive search: the share of released images whose right person is among the first so many of the clean "
            "originals. A curve on the dotted line is guessing.",
            png(_matches(found)),
        ),
    }


def _distances(pairing: Pairing, measured: list[Threat], thresholds: ThresholdsByRecogniser) -> Figure:
    panels: dict[str, dict[str, Vectors]] = {}
    for name in pairing.recognisers:
        query, gallery, _ = sides(pairing, name, "naive")
        clean = pair_distances(gallery, gallery, "T1", same=True).genuine
        for threat in measured:
            pairs = pair_distances(query, gallery, threat)
            mates = "to other photographs of the person" if threat == "T1" else "to the source"
            series = {mates: pairs.genuine, "to other people": pairs.impostor}
            panels[f"{name}, {threat}"] = series | ({"clean, of one person": clean} if len(clean) else {})
    lines = {
        f"{name}, {threat}": {key if key == "deepface" else f"FAR {key}": at for key, at in thresholds[name].items()}
        for name in pairing.recognisers
        for threat in measured
    }
    return distance_histograms(panels, lines)


def _roc(pairing: Pairing, measured: list[Threat]) -> Figure:
    panels: dict[str, dict[str, Any]] = {threat: {} for threat in measured}
    for threat in measured:
        for name in pairing.recognisers:
            query, gallery, _ = sides(pairing, name, "naive")
            pairs = pair_distances(query, gallery, threat)
            if len(pairs.genuine) and len(pairs.impostor):
                curve = roc(pairs.genuine, pairs.impostor)
                panels[threat][name] = (curve.far, curve.tar)
    return roc_curves(panels)


def _matches(found: Mapping[Threat, Mapping[str, SearchResult | None]]) -> Figure:
    ranks = range(1, RANKS + 1)
    panels: dict[str, dict[str, Any]] = {
        threat: {name: np.array([(one.rank <= r).mean() for r in ranks]) for name, one in by_name.items() if one}
        for threat, by_name in found.items()
    }
    first = {threat: next((one for one in by_name.values() if one), None) for threat, by_name in found.items()}
    guessed: dict[str, Any] = {
        threat: np.array([chance(one, r) for r in ranks]) for threat, one in first.items() if one
    }
    return match_curves(panels, guessed)


def _attacks(evidence: ReleaseEvidence) -> Figure:
    """Each attack with its interval; of each threat model those that reach farthest."""
    panels: dict[str, list[Interval]] = {}
    for threat in THREATS:
        panels[threat] = [
            Interval(name=f"{one.attacker}, {one.attack}", low=one.low, share=one.share, high=one.high,
                     chance=one.chance, limit=one.limit)
            for one in evidence.of(threat)[:SHOWN]
        ]  # fmt: skip
    panels["leave-one-out, T1"] = [
        Interval(name=f"{one.attacker} ({'+'.join(one.gate)} gated), {rate.attack}", low=rate.low, share=rate.share,
                 high=rate.high, chance=rate.chance, limit=rate.limit)
        for one in evidence.leave_one_out
        for rate in (one.rank_1, one.trained)
        if rate
    ]  # fmt: skip
    return intervals({title: rows for title, rows in panels.items() if rows})
