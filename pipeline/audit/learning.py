"""Attackers that need pixels: networks fine-tuned on the release's pairs, and galleries put through its operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.attacks.figures import Searches, ThreatFigures
from pipeline.anonymity.attacks.networks import NETWORKS
from pipeline.anonymity.attacks.parrot import gallery, parrot_search
from pipeline.anonymity.attacks.photos import THREATS, Indices, Pairing, Photos, Threat, layouts
from pipeline.anonymity.attacks.tuned import Pictured, searched, turns
from pipeline.anonymity.faces.recognise import crops_for
from pipeline.anonymity.faces.table import tabulate
from pipeline.audit.gathering import Held, Seen
from pipeline.audit.parroting import operator_of, parroted
from pipeline.audit.task import Audit

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser
    from pipeline.anonymity.faces.detect import Face, FaceFinder
    from pipeline.media.records import Pixels8

PAIRS = 600
"""Pairs that networks are fine-tuned and tested on, at most, all of originals that the attacker holds."""
Learnt = dict[Threat, dict[str, Searches]]
"""Searches by threat model and recogniser."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Originals that the attackers with networks hold, and put through the operator."""

    rows: Indices
    """`[P]`: their numbers."""
    images: Sequence[Pixels8]
    """Their pixels, uint8 `[H, W, 3]`."""
    made: Sequence[Pixels8]
    """What the operator made of each; empty where the attacker cannot run it."""


def learn(
    task: Audit, seen: Seen, finder: FaceFinder, recognisers: Sequence[Recogniser], device: str = "cpu"
) -> Learnt:
    """Runs the release's operator on originals, fine-tunes the networks that are among the recognisers, and searches.

    `own_parrot` is the search for released images among what the attacker made of originals itself; the others are
    those of `searched`.
    """
    operator, rows = operator_of(task), np.array(sorted(seen.parrots), dtype=np.int64)
    images, made = [seen.parrots[i] for i in rows], list["Pixels8"]()
    if not isinstance(operator, str):
        made = parroted(task, operator, images, [seen.labels[i] for i in rows], device)
    return by_pixels(seen.pairing, seen.pairs, Own(rows=rows, images=images, made=made), finder, recognisers)


def by_pixels(pairing: Pairing, pairs: Held, own: Own, finder: FaceFinder, recognisers: Sequence[Recogniser]) -> Learnt:
    """Does the work of `learn` with what the attacker has made already."""
    found: Learnt = {threat: {name: {} for name in pairing.recognisers} for threat in THREATS}
    if own.made:
        keys, nobody = [str(row) for row in own.rows], [None] * len(own.rows)
        table, flat = tabulate(own.made, keys, nobody, finder, recognisers), layouts(own.made)
        for name in pairing.recognisers:
            parrots = gallery(pairing, name, own.rows, table, flat)
            for threat in THREATS:
                found[threat][name]["own_parrot"] = parrot_search(pairing, name, parrots, threat)
    names = [one.name for one in recognisers if one.name in NETWORKS]
    sources = pairing.source[pairs.rows]
    used = np.flatnonzero(np.isin(sources, own.rows))[:PAIRS]
    if names and len(used):
        released = _seen_by(names, pairing, sources[used], [pairs.released[i] for i in used], finder)
        originals = _seen_by(names, pairing, own.rows, own.images, finder)
        parrot = _seen_by(names, pairing, own.rows, own.made, finder) if own.made else {}
        for name in names:
            taught = turns(NETWORKS[name], released[name], originals[name], parrot.get(name))
            for threat in THREATS:
                found[threat][name] |= searched(taught, threat)
    return found


def with_learnt(figures: ThreatFigures, learnt: Mapping[str, Searches]) -> ThreatFigures:
    """Adds what `learn` has found under one threat model to its figures."""
    if figures.recognisers is None:
        return figures
    by_name = {
        name: one.model_copy(update={"trained": one.trained | learnt.get(name, {})})
        for name, one in figures.recognisers.items()
    }
    return figures.model_copy(update={"recognisers": by_name})


def _seen_by(
    names: Sequence[str], pairing: Pairing, photo: Indices, images: Sequence[Pixels8], finder: FaceFinder
) -> dict[str, Pictured]:
    """The largest face of each image that has one, as each network sees it; `photo` is the original of each image."""
    found: list[tuple[int, Face]] = [(i, faces[0]) for i, faces in enumerate(finder.find(images)) if faces]
    rows = photo[[i for i, _ in found]] if found else np.zeros(0, dtype=np.int64)
    photos = Photos(
        vectors=np.zeros((len(rows), 1), np.float32), photo=rows, person=pairing.person[rows],
        phash=pairing.originals.phash[rows],
    )  # fmt: skip
    return {name: Pictured(photos=photos, crops=crops_for(name, [face for _, face in found])) for name in names}
