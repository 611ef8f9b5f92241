"""How well pairs can be told apart: mates from strangers, releases from their sources, releases of one person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.anonymity.attacks.figures import LinkabilityFigures, OverThreshold, ProtectionFigures, VerificationFigures
from pipeline.anonymity.attacks.identification import chunks, distances_of, owner_of, reidentify, share
from pipeline.anonymity.attacks.photos import UNKNOWN, Indices, Pairing, Photos, Threat, Vectors, related
from pipeline.anonymity.faces.metrics import eer, linkability, threshold_at_far

FARS: Mapping[str, float] = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
"""The false acceptance rates of the audit, by their names."""
MOST_PAIRS = 4_000_000
"""At most so many impostor pairs are looked at; in larger sets, those of evenly spaced queries."""


@dataclass(frozen=True, kw_only=True)
class PairDistances:
    """Cosine distances of genuine pairs, with the person of each, and of impostor pairs, which show two people."""

    genuine: Vectors
    person: Indices
    impostor: Vectors


def pair_distances(query: Photos, gallery: Photos, threat: Threat, *, same: bool = False) -> PairDistances:
    """Cosine distances between query and gallery of genuine pairs and of impostor pairs.

    Genuine pairs are mates under the threat model; impostor pairs surely show two people or, where people are unknown,
    go back to two originals. With `same`, query and gallery are one set.
    """
    stride = max(1, len(query) * len(gallery) // MOST_PAIRS)
    genuine, person, impostor = [], [], []
    for rows in chunks(len(query)):
        part = query[rows]
        mates, barred = related(part, gallery, threat, same=rows if same else None)
        distances = distances_of(part, gallery)
        genuine.append(distances[mates])
        person.append(np.repeat(owner_of(part), mates.sum(1)))
        strangers = (part.person[:, None] != gallery.person) | (part.person[:, None] == UNKNOWN)
        strangers &= (part.photo[:, None] != gallery.photo) & ~barred
        strangers[rows % stride != 0] = False
        impostor.append(distances[strangers])
    empty = np.zeros(0, dtype=np.float32)
    return PairDistances(
        genuine=np.concatenate([empty, *genuine]),
        person=np.concatenate([np.zeros(0, dtype=np.int64), *person]),
        impostor=np.concatenate([empty, *impostor]),
    )


def verification(pairs: PairDistances) -> VerificationFigures | None:
    """The equal error rate, and the true acceptance rate (`tar`) at each false acceptance rate.

    A rate needs at least 1 / FAR impostor pairs, and is left out otherwise. Returns None without pairs of either kind.
    """
    if not len(pairs.genuine) or not len(pairs.impostor):
        return None
    tar = {
        name: share(pairs.genuine <= threshold_at_far(pairs.impostor, far), pairs.person)
        for name, far in FARS.items()
        if far * len(pairs.impostor) >= 1
    }
    return VerificationFigures(
        genuine=len(pairs.genuine), impostor=len(pairs.impostor), eer=eer(pairs.genuine, pairs.impostor), tar=tar
    )


def linked(pairs: PairDistances) -> LinkabilityFigures | None:
    """How well releases of one person can be linked: D_sys in [0, 1] (see `linkability`), and its value by chance.

    `chance` is D_sys where the same number of "mated" pairs is drawn from strangers. Returns None for fewer than two
    pairs of either kind.
    """
    if len(pairs.genuine) < 2 or len(pairs.impostor) < 2:
        return None
    drawn = np.random.default_rng(0).choice(pairs.impostor, len(pairs.genuine))
    return LinkabilityFigures(
        d_sys=linkability(pairs.genuine, pairs.impostor),
        chance=linkability(drawn, pairs.impostor),
        mated=len(pairs.genuine),
    )


def source_distances(pairing: Pairing, recogniser: str) -> tuple[Vectors, Indices]:
    """The smallest cosine distance between *any* face of a released image and any face of its source.

    Returns distances `[M]` and the numbers of the sources `[M]`. Images without a face on either side are left out.
    """
    made, clean = pairing.released, pairing.originals
    sources = pairing.source[made.image]
    first, end = (np.searchsorted(clean.image, sources, side=side) for side in ("left", "right"))
    counts = np.where(sources == UNKNOWN, 0, end - first)
    ours = np.repeat(np.arange(len(made.image)), counts)
    theirs = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    a, b = made.embeddings[recogniser][ours], clean.embeddings[recogniser][theirs]
    distances = 1 - np.einsum("fd,fd->f", a, b)
    least = np.full(len(pairing.source), np.inf, dtype=np.float32)
    np.minimum.at(least, made.image[ours], distances)
    has = np.isfinite(least)
    return least[has], pairing.source[has]


def protection(
    pairing: Pairing, recogniser: str, thresholds: Mapping[str, float], threat: Threat
) -> ProtectionFigures | None:
    """The fraction of released images farther than each threshold from everything that the attacker may hold.

    The threat model says what that is. Returns None where there are no distances.
    """
    if threat == "T2" and recogniser in pairing.layouts:
        found = reidentify(pairing, recogniser, "naive", "T2")
        distances, people = (found.distance, found.person) if found else (np.zeros(0), np.zeros(0, np.int64))
    elif threat == "T2":
        distances, source = source_distances(pairing, recogniser)
        people = np.where(pairing.person[source] == UNKNOWN, -2 - source, pairing.person[source])
    else:
        found = reidentify(pairing, recogniser, "naive", "T1")
        distances, people = (found.distance, found.person) if found else (np.zeros(0), np.zeros(0, np.int64))
    if not len(distances):
        return None
    by = {name: OverThreshold(**dict(share(distances > t, people)), threshold=t) for name, t in thresholds.items()}
    return ProtectionFigures(images=len(distances), mean_distance=float(distances.mean()), over=by)


def own_thresholds(pairing: Pairing, recogniser: str) -> dict[str, float]:
    """The cosine distance that separates people on the clean originals at each FAR; empty where nobody is known."""
    clean = pairing.clean(recogniser)
    pairs = pair_distances(clean[clean.person != UNKNOWN], clean, "T1", same=False)
    return {name: threshold_at_far(pairs.impostor, far) for name, far in FARS.items() if far * len(pairs.impostor) >= 1}
