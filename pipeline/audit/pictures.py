"""The pictures of an audit, from paired originals and releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.anonymity.attacks.identification import SearchResult, chance, reidentify, share, sides
from pipeline.anonymity.attacks.photos import THREATS, Pairing, Threat, Vectors
from pipeline.anonymity.attacks.results import ThresholdsByRecogniser, missing
from pipeline.anonymity.attacks.verification import pair_distances
from pipeline.anonymity.faces.metrics import roc
from pipeline.report.audit_plots import Tradeoff, distance_histograms, match_curves, png, privacy_utility, roc_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = 20
"""The largest rank that is drawn."""


def draw(pairing: Pairing, thresholds: ThresholdsByRecogniser) -> dict[str, tuple[str, bytes]]:
    """(caption, PNG) by file name; what a threat model has no pairs for is left out."""
    measured = [threat for threat in THREATS if missing(threat, pairing) is None]
    if not measured:
        return {}
    found = {t: {n: reidentify(pairing, n, "naive", t) for n in pairing.recognisers} for t in measured}
    return {
        "distances.png": ("Distances of released faces, by recogniser", png(_distances(pairing, measured, thresholds))),
        "roc.png": ("Telling mates from strangers, released against originals", png(_roc(pairing, measured))),
        "cmc.png": ("Naive search: released against originals", png(_matches(found))),
        "privacy_utility.png": ("Naive search, and faces found", png(_plane(pairing, found))),
    }  # fmt: skip


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


def _plane(pairing: Pairing, found: Mapping[Threat, Mapping[str, SearchResult | None]]) -> Figure:
    with_face = np.bincount(pairing.released.image, minlength=len(pairing.released.keys)) > 0
    faces = share(with_face, np.arange(len(with_face)))
    height = (faces.low, faces.share, faces.high)
    panels: dict[str, list[Tradeoff]] = {threat: [] for threat in found}
    for threat, by_name in found.items():
        for name, one in by_name.items():
            if one:
                hidden = share(one.rank > 1, one.person)
                panels[threat].append(
                    Tradeoff(name=name, privacy=(hidden.low, hidden.share, hidden.high), utility=height)
                )
    return privacy_utility(panels, utility="share of releases with a face")
