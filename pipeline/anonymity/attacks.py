"""Attacks on a release by search: how often does an attacker find the person, how well can pairs be told apart?

Every attack is run under a threat model, T1 or T2 (`photos.THREATS`), and its figures never meet those of the other.
Results are plain dicts of numbers for JSON. No name, key or picture gets into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.metrics import bootstrap_people, eer, linkability, threshold_at_far
from pipeline.anonymity.photos import UNKNOWN, Bools, Floats, Ints, Pairing, Photos, Threat, related

Search = Literal["clean", "naive", "reverse", "parrot"]
SEARCHES: Mapping[Search, str] = {
    "clean": "query: clean photograph, gallery: other clean ones; what the recogniser does without any protection",
    "naive": "query: released, gallery: clean originals",
    "reverse": "query: clean photograph, gallery: released",
    "parrot": "query: photographs that the attacker put through the same operator, gallery: released",
}
RANKS = (1, 5, 10)
FARS: Mapping[str, float] = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
MOST_PAIRS = 4_000_000
"""Impostor pairs that are looked at; of larger sets those of evenly spaced queries."""
CHUNK = 512
"""Queries at a time."""
FEWEST_QUERIES = 3
"""Of a person, before they can be the worst case: one hit of one is no frequency."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to, for those of the queries that have a mate in the gallery."""

    rank: Ints
    """`[Q]`: place of the nearest mate, 1 is first. Of equal distances the first entry of the gallery is nearer."""
    distance: Floats
    """`[Q]`: of the nearest mate."""
    mates: Ints
    """`[Q]`: how many there are among the `candidates [Q]` that the threat model allows."""
    candidates: Ints
    person: Ints
    """`[Q]`: whose query it is; where people are unknown, each photograph is its own."""


def search(query: Photos, gallery: Photos, threat: Threat, *, same: bool = False) -> Found:
    """Ranks the gallery by cosine distance for each query; memory is that of `CHUNK` queries.

    `same`: both are one set, and no photograph finds itself.
    """
    columns: list[tuple[NDArray[Any], ...]] = []
    order = np.arange(len(gallery))
    for rows in _chunks(len(query)):
        part = query[rows]
        mates, barred = related(part, gallery, threat, same=rows if same else None)
        distances = np.where(barred, np.inf, _distances(part, gallery))
        own = np.where(mates, distances, np.inf)
        place = own.argmin(1)[:, None]
        best = np.take_along_axis(own, place, 1)
        ahead = ((distances < best) | ((distances == best) & (order < place))).sum(1)
        has = mates.any(1)
        row = (ahead + 1, best[:, 0], mates.sum(1), (~barred).sum(1), _owner(part))
        columns.append(tuple(column[has] for column in row))
    rank, distance, found, candidates, person = (np.concatenate(c) for c in zip(*columns, strict=True))
    return Found(rank=rank, distance=distance, mates=found, candidates=candidates, person=person)


def sides(pairing: Pairing, recogniser: str, kind: Search) -> tuple[Photos, Photos, bool]:
    """Query and gallery of a search, and whether they are one set."""
    clean, made = pairing.clean(recogniser), pairing.made(recogniser)
    query = made if kind in ("naive", "parrot") else clean
    gallery = made if kind in ("reverse", "parrot") else clean
    return query, gallery, query is gallery


def reidentify(pairing: Pairing, recogniser: str, kind: Search, threat: Threat) -> Found | None:
    """None where no query has a mate: no second photographs, no identities, no copies."""
    query, gallery, same = sides(pairing, recogniser, kind)
    if not len(query) or not len(gallery):
        return None
    found = search(query, gallery, threat, same=same)
    return found if len(found.rank) else None


def rates(found: Found | None, ranks: tuple[int, ...] = RANKS) -> dict[str, Any] | None:
    """Share found by each rank, its 95 % interval over people, and what guessing at random would find."""
    if found is None:
        return None
    by_rank = {str(r): share(found.rank <= r, found.person) | {"chance": chance(found, r)} for r in ranks}
    return {
        "queries": len(found.rank),
        "people": len(np.unique(found.person)),
        "gallery": float(found.candidates.mean()),
        "rank": by_rank,
    }


def chance(found: Found, rank: int) -> float:
    """1 − C(G − m, r) / C(G, r) on average, of m mates among G candidates: each query has a gallery of its own."""
    drawn = np.arange(rank)[:, None]
    left = np.clip(found.candidates - found.mates - drawn, 0, None)
    return float(np.mean(1 - np.prod(left / np.maximum(found.candidates - drawn, 1), axis=0)))


def share(hits: Bools, people: Ints) -> dict[str, float]:
    """The mean of `hits [Q]` with a 95 % interval over `people [Q]`.

    Where all are alike a bootstrap can't see what did not happen: then the bound is the exact one for n people,
    1 − .05^(1/n).
    """
    mean, n = float(np.mean(hits)), len(np.unique(people))
    bound = 1 - 0.05 ** (1 / n)
    if mean in (0, 1) or n < 2:
        low, high = (0.0, bound) if mean == 0 else (1 - bound if mean == 1 else 0.0, 1.0)
    else:
        low, high = bootstrap_people(hits, people)
    return {"share": mean, "low": low, "high": high}


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Distances of pairs: genuine ones with the person they are of, and those of two people."""

    genuine: Floats
    person: Ints
    impostor: Floats


def pair_distances(query: Photos, gallery: Photos, threat: Threat, *, same: bool = False) -> Pairs:
    """Genuine are mates under the threat model, impostor what is surely of two people (or, with people unknown,
    of two photographs)."""
    stride = max(1, len(query) * len(gallery) // MOST_PAIRS)
    genuine, person, impostor = [], [], []
    for rows in _chunks(len(query)):
        part = query[rows]
        mates, barred = related(part, gallery, threat, same=rows if same else None)
        distances = _distances(part, gallery)
        genuine.append(distances[mates])
        person.append(np.repeat(_owner(part), mates.sum(1)))
        strangers = (part.person[:, None] != gallery.person) | (part.person[:, None] == UNKNOWN)
        strangers &= (part.photo[:, None] != gallery.photo) & ~barred
        strangers[rows % stride != 0] = False
        impostor.append(distances[strangers])
    empty = np.zeros(0, dtype=np.float32)
    return Pairs(
        genuine=np.concatenate([empty, *genuine]),
        person=np.concatenate([np.zeros(0, dtype=np.int64), *person]),
        impostor=np.concatenate([empty, *impostor]),
    )


def verification(pairs: Pairs) -> dict[str, Any] | None:
    """EER, and TAR at each FAR that so many impostor pairs can show; None without pairs of either kind."""
    if not len(pairs.genuine) or not len(pairs.impostor):
        return None
    tar = {
        name: share(pairs.genuine <= threshold_at_far(pairs.impostor, far), pairs.person)
        for name, far in FARS.items()
        if far * len(pairs.impostor) >= 1
    }
    counts = {"genuine": len(pairs.genuine), "impostor": len(pairs.impostor)}
    return counts | {"eer": eer(pairs.genuine, pairs.impostor), "tar": tar}


def linked(pairs: Pairs) -> dict[str, float] | None:
    """D_sys between releases, and what it comes to where the same number of pairs is drawn from strangers."""
    if len(pairs.genuine) < 2 or len(pairs.impostor) < 2:
        return None
    drawn = np.random.default_rng(0).choice(pairs.impostor, len(pairs.genuine))
    return {
        "d_sys": linkability(pairs.genuine, pairs.impostor),
        "chance": linkability(drawn, pairs.impostor),
        "mated": float(len(pairs.genuine)),
    }


def source_distances(pairing: Pairing, recogniser: str) -> tuple[Floats, Ints]:
    """Of each released image with a face, the smallest distance of *any* of its faces to any of its source's.

    Returns distances `[M]` and the sources `[M]`; images without a face on either side are left out.
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


def protection(pairing: Pairing, recogniser: str, thresholds: Mapping[str, float], threat: Threat) -> dict[str, Any]:
    """Share of released images farther than each threshold from all that the threat model lets the attacker hold."""
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
        return {}
    by = {name: {"threshold": t} | share(distances > t, people) for name, t in thresholds.items()}
    return {"images": len(distances), "mean_distance": float(distances.mean()), "over": by}


def worst_identity(found: Found | None) -> dict[str, Any] | None:
    """The person found first most often (a number, not a name), among those with at least `FEWEST_QUERIES` queries."""
    if found is None:
        return None
    people, own = np.unique(found.person, return_inverse=True)
    queries, hits = np.bincount(own), np.bincount(own, weights=found.rank == 1)
    eligible = queries >= FEWEST_QUERIES
    if not eligible.any():
        return None
    frequency = np.where(eligible, hits / queries, -1)
    worst = np.lexsort((queries, frequency))[-1]
    return {"person": int(people[worst]), "queries": int(queries[worst]), "share": float(frequency[worst])}


def own_thresholds(pairing: Pairing, recogniser: str) -> dict[str, float]:
    """What separates people on the clean originals at each FAR; empty where nobody is known."""
    clean = pairing.clean(recogniser)
    pairs = pair_distances(clean[clean.person != UNKNOWN], clean, "T1", same=False)
    return {name: threshold_at_far(pairs.impostor, far) for name, far in FARS.items() if far * len(pairs.impostor) >= 1}


def attack(pairing: Pairing, recogniser: str, threat: Threat, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Every attack of this file by one recogniser under one threat model; None stands for what has no pairs."""
    kinds: tuple[Search, ...] = ("clean", "naive", "reverse", "parrot") if threat == "T1" else tuple(SEARCHES)[1:]
    found = {kind: reidentify(pairing, recogniser, kind, threat) for kind in kinds}
    query, gallery, _ = sides(pairing, recogniser, "naive")
    released = pairing.made(recogniser)
    return {
        "reidentification": {kind: rates(one) for kind, one in found.items()},
        "verification": verification(pair_distances(query, gallery, threat)),
        "linkability": linked(pair_distances(released, released, threat, same=True)),
        "protection": protection(pairing, recogniser, thresholds, threat),
        "worst": worst_identity(found["naive"]),
    }


def _chunks(count: int) -> Iterator[Ints]:
    for first in range(0, max(count, 1), CHUNK):
        yield np.arange(first, min(first + CHUNK, count))


def _distances(query: Photos, gallery: Photos) -> Floats:
    return 1 - query.vectors @ gallery.vectors.T


def _owner(photos: Photos) -> Ints:
    """The person, or, where unknown, a number that only photographs of one original share."""
    return np.where(photos.person == UNKNOWN, -2 - photos.photo, photos.person)
