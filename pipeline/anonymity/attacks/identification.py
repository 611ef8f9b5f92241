"""Attacks on a release by search: how often does an attacker find the person?

Every attack is run under a threat model, T1 or T2 (`photos.THREATS`), and its figures never meet those of the other.
Results are records of plain numbers (`figures`). No name, key or picture gets into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from pipeline.anonymity.attacks.figures import RankShare, SearchFigures, Share, WorstIdentity
from pipeline.anonymity.attacks.guessing import by_guessing
from pipeline.anonymity.attacks.photos import UNKNOWN, Bools, Indices, Pairing, Photos, Threat, Vectors, related
from pipeline.anonymity.faces.metrics import bootstrap_people

Search = Literal["clean", "naive", "reverse", "parrot"]
SEARCHES: Mapping[Search, str] = {
    "clean": "query: clean photograph, gallery: other clean ones; what the recogniser does without any protection",
    "naive": "query: released, gallery: clean originals",
    "reverse": "query: clean photograph, gallery: released",
    "parrot": "query: photographs that the attacker put through the same operator, gallery: released",
}
"""Each search, with its query and its gallery in words."""
RANKS = (1, 5, 10)
"""A search counts as a hit at rank r if the person is among the r nearest entries of the gallery."""
CHUNK = 256
"""Queries that are compared at a time; it limits the memory."""
FEWEST_QUERIES = 3
"""A person with fewer queries cannot be the worst case: one hit in one query says little about how often they are
found."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The outcome of a search for each of the Q queries that have a mate in the gallery."""

    rank: Indices
    """`[Q]`: place of the nearest mate, 1 being the first. Among equal distances the first entry of the gallery counts
    as nearer."""
    distance: Vectors
    """`[Q]`: cosine distance to the nearest mate."""
    mates: Indices
    """`[Q]`: how many of the `candidates` are mates."""
    candidates: Indices
    """`[Q]`: how many entries of the gallery the threat model allows."""
    person: Indices
    """`[Q]`: number of the person in the query, as `owner_of` gives it."""


def search(query: Photos, gallery: Photos, threat: Threat, *, same: bool = False) -> SearchResult:
    """Ranks the gallery by cosine distance for each query, holding `CHUNK` queries in memory at a time.

    With `same`, query and gallery are one set, and no photograph finds itself.
    """
    columns: list[tuple[NDArray[Any], ...]] = []
    order = np.arange(len(gallery))
    for rows in chunks(len(query)):
        part = query[rows]
        mates, barred = related(part, gallery, threat, same=rows if same else None)
        distances = np.where(barred, np.inf, distances_of(part, gallery))
        own = np.where(mates, distances, np.inf)
        place = own.argmin(1)[:, None]
        best = np.take_along_axis(own, place, 1)
        ahead = ((distances < best) | ((distances == best) & (order < place))).sum(1)
        has = mates.any(1)
        row = (ahead + 1, best[:, 0], mates.sum(1), (~barred).sum(1), owner_of(part))
        columns.append(tuple(column[has] for column in row))
    rank, distance, found, candidates, person = (np.concatenate(c) for c in zip(*columns, strict=True))
    return SearchResult(rank=rank, distance=distance, mates=found, candidates=candidates, person=person)


def joined_results(found: Sequence[SearchResult]) -> SearchResult | None:
    """The results of several searches as one; None where no query has a mate."""
    if not any(len(one.rank) for one in found):
        return None
    names = ("rank", "distance", "mates", "candidates", "person")
    return SearchResult(**{name: np.concatenate([getattr(one, name) for one in found]) for name in names})


def sides(pairing: Pairing, recogniser: str, kind: Search) -> tuple[Photos, Photos, bool]:
    """Gives the query and the gallery of a search, and whether they are the same set."""
    clean, made = pairing.clean(recogniser), pairing.made(recogniser)
    query = made if kind in ("naive", "parrot") else clean
    gallery = made if kind in ("reverse", "parrot") else clean
    return query, gallery, query is gallery


def reidentify(pairing: Pairing, recogniser: str, kind: Search, threat: Threat) -> SearchResult | None:
    """Runs a search of one kind with one recogniser.

    Returns None where no query has a mate, as without second photographs, identities or copies.
    """
    query, gallery, same = sides(pairing, recogniser, kind)
    if not len(query) or not len(gallery):
        return None
    found = search(query, gallery, threat, same=same)
    return found if len(found.rank) else None


def rates(found: SearchResult | None, ranks: tuple[int, ...] = RANKS) -> SearchFigures | None:
    """The fraction of queries that found their person by each rank, and what guessing at random would find.

    Each fraction comes with its 95 % interval over people. `gallery` is the mean number of candidates of a query. None
    stays None.
    """
    if found is None:
        return None
    by_rank = {str(rank): rank_share(found, rank) for rank in ranks}
    return SearchFigures(
        queries=len(found.rank),
        people=len(np.unique(found.person)),
        gallery=float(found.candidates.mean()),
        rank=by_rank,
    )


def rank_share(found: SearchResult, rank: int) -> RankShare:
    """The fraction of queries that found their person by `rank`, beside what guessing at random would find."""
    hits, guessed = found.rank <= rank, chances(found, rank)
    by_chance = by_guessing(hits, guessed, found.person)
    return RankShare(**dict(share(hits, found.person)), chance=float(guessed.mean()), by_guessing=by_chance)


def chance(found: SearchResult, rank: int) -> float:
    """The hit rate of guessing at random, averaged over the queries; see `chances`."""
    return float(chances(found, rank).mean())


def chances(found: SearchResult, rank: int) -> NDArray[np.float64]:
    """The hit rate of guessing at random for each query, `[Q]`.

    For m mates among G candidates it is 1 − C(G − m, r) / C(G, r) at rank r.
    """
    drawn = np.arange(rank)[:, None]
    left = np.clip(found.candidates - found.mates - drawn, 0, None)
    return np.asarray(1 - np.prod(left / np.maximum(found.candidates - drawn, 1), axis=0))


def share(hits: Bools, people: Indices) -> Share:
    """The mean of `hits [Q]` with a 95 % interval over `people [Q]`.

    Where all hits are equal, a bootstrap cannot see what did not happen. Then the bound is the exact one for n people,
    1 − .05^(1/n).
    """
    mean, n = float(np.mean(hits)), len(np.unique(people))
    bound = 1 - 0.05 ** (1 / n)
    if mean in (0, 1) or n < 2:
        low, high = (0.0, bound) if mean == 0 else (1 - bound if mean == 1 else 0.0, 1.0)
    else:
        low, high = bootstrap_people(hits, people)
    return Share(share=mean, low=low, high=high)


def worst_identity(found: SearchResult | None) -> WorstIdentity | None:
    """The person who is most often found at rank 1, among those with at least `FEWEST_QUERIES` queries.

    They are given by their number, never by name. `share` is the fraction of their queries that found them. None where
    nobody has enough queries.
    """
    if found is None:
        return None
    people, own = np.unique(found.person, return_inverse=True)
    queries, hits = np.bincount(own), np.bincount(own, weights=found.rank == 1)
    eligible = queries >= FEWEST_QUERIES
    if not eligible.any():
        return None
    frequency = np.where(eligible, hits / queries, -1)
    worst = np.lexsort((queries, frequency))[-1]
    guessed = np.bincount(own, weights=chances(found, 1)) / queries
    return WorstIdentity(
        person=int(people[worst]), queries=int(queries[worst]), share=float(frequency[worst]),
        people=int(eligible.sum()),
        by_guessing=any_as_often(float(frequency[worst]), queries[eligible], guessed[eligible]),
    )  # fmt: skip


def any_as_often(share: float, queries: Indices, chance: NDArray[np.float64]) -> float:
    """The probability that guessing finds at least one of P people in the fraction `share` of their queries, or more.

    `queries [P]` and `chance [P]` are a person's number of queries and the hit rate of each: hits are binomial, and
    people are independent.
    """
    least = np.ceil(share * queries - 1e-9)
    return float(1 - np.prod(1 - binom.sf(least - 1, queries, chance)))


def chunks(count: int) -> Iterator[Indices]:
    """Divides `range(count)` into consecutive arrays of at most `CHUNK` numbers; one empty array where it is 0."""
    for first in range(0, max(count, 1), CHUNK):
        yield np.arange(first, min(first + CHUNK, count))


def distances_of(query: Photos, gallery: Photos) -> Vectors:
    """Cosine distances `[Q, G]` between all queries and all entries of the gallery."""
    return 1 - query.vectors @ gallery.vectors.T


def owner_of(photos: Photos) -> Indices:
    """`[F]`: the number of each photograph's person; where unknown, a negative number for each original."""
    return np.where(photos.person == UNKNOWN, -2 - photos.photo, photos.person)
