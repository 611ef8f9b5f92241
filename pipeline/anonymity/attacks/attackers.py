"""Attackers that learn: they know some people, have anonymised images of them, and fit what survives the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.attacks.figures import Searches, SearchFigures
from pipeline.anonymity.attacks.identification import SearchResult, joined_results, rates, search
from pipeline.anonymity.attacks.photos import UNKNOWN, Bools, Indices, Photos, Threat, Vectors, related

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS, RATE, DECAY = 200, 2e-2, 1e-2
"""Optimiser steps, learning rate and weight decay of AdamW, for the attackers that are trained by gradient."""
HIDDEN = 256
"""Units in the hidden layer of the perceptron attacker."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties that are tried, in units of the mean variance of an embedding's entries; the best one on the people
that the attacker knows is kept."""
FEWEST_PEOPLE = 8
"""An attacker that learns needs at least this many people with known photographs."""
COMPONENTS = 256
"""Vectors longer than this, such as those of LBPH, are projected on so many principal directions: solving for a full
matrix would take minutes."""
Matrix = NDArray[np.float64]


def classify(released: Photos, *, hidden: int | None = None, seed: int = 0) -> SearchFigures | None:
    """Trains a classifier of people on half of each person's released photographs and tests it on the other half (T1).

    The classifier is a softmax regression on the embeddings, or has one hidden layer of `hidden` units. Each half is
    the test set once. No original of the test half, and no near-copy of one, has a release in the training half.
    Returns the figures of `rates`, or None where fewer than `FEWEST_PEOPLE` people have two photographs.
    """
    half = _halves(released, seed)
    both = np.intersect1d(released.person[half == 0], released.person[half == 1])
    if len(both) < FEWEST_PEOPLE:
        return None
    chosen = np.isin(released.person, both)
    faces, half = released[chosen], half[chosen]
    parts = [_tested(faces, half != side, half == side, hidden, seed) for side in (0, 1)]
    rank, person = (np.concatenate(column) for column in zip(*parts, strict=True))
    ones = np.ones(len(rank), dtype=np.int64)
    found = SearchResult(
        rank=rank, distance=np.zeros(len(rank), np.float32), mates=ones, candidates=ones * len(both), person=person
    )
    return rates(found) if len(rank) else None


def map_to_clean(
    released: Photos, originals: Photos, threat: Threat, *, folds: int = 4, seed: int = 0
) -> SearchFigures | None:
    """Fits a linear map from released to clean embeddings on known people, then searches for *other* people with it.

    The map is a ridge regression of each person's clean embeddings on their released ones, followed by whitening with
    the scatter within people (WCCN: Hatch et al., Interspeech 2006). People are divided into `folds` parts, and each
    part is tested by a map fitted on the others, so that nobody is tested by a map that has seen them. The gallery
    holds all originals except those of the known people. It is smaller than that of the naive search, so that chance is
    larger. Returns the figures of `rates`, or None where fewer than `FEWEST_PEOPLE` people are known.
    """
    people = np.unique(released.person[released.person != UNKNOWN])
    if len(people) < FEWEST_PEOPLE:
        return None
    fold = np.random.default_rng(seed).permutation(len(people)) % folds
    found = []
    for turn in range(folds):
        known, others = people[fold != turn], people[fold == turn]
        ridge = _best_ridge(released, originals, known, threat)
        found.append(_mapped_search(released, originals, known, others, ridge, threat))
    return rates(joined_results(found))


def _halves(released: Photos, seed: int) -> Indices:
    """`[R]`: 0 or 1 by turns over each person's photographs in random order, copies of one together; −1 for unknown."""
    shuffled = np.random.default_rng(seed).permutation(int(released.photo.max(initial=0)) + 1)
    half = np.full(len(released), -1, dtype=np.int64)
    for person in np.unique(released.person[released.person != UNKNOWN]):
        rows = np.flatnonzero(released.person == person)
        photos = np.unique(shuffled[released.photo[rows]], return_inverse=True)[1]
        half[rows] = photos % 2
    return half


def _tested(faces: Photos, train: Bools, test: Bools, hidden: int | None, seed: int) -> tuple[Indices, Indices]:
    """Rank of the right person for each test photograph, and that person."""
    import torch

    _, label = np.unique(faces.person, return_inverse=True)
    known = np.flatnonzero(train)
    _, barred = related(faces[test], faces[known], "T1")
    clean = ~barred.any(axis=1)
    rows = np.flatnonzero(test)[clean]
    mean, deviation = faces.vectors[known].mean(axis=0), faces.vectors[known].std(axis=0).mean().clip(min=1e-6)
    x = torch.from_numpy((faces.vectors - mean) / deviation)
    net = _fit(x[known], torch.from_numpy(label[known]), int(label.max()) + 1, hidden, seed)
    with torch.no_grad():
        scores = net(x[rows]).numpy()
    own = np.take_along_axis(scores, label[rows, None], axis=1)
    order = np.arange(scores.shape[1])
    ahead = (scores > own) | ((scores == own) & (order < label[rows, None]))
    return ahead.sum(axis=1) + 1, faces.person[rows]


def _fit(x: Tensor, label: Tensor, classes: int, hidden: int | None, seed: int) -> nn.Module:
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hidden is None:
            net: nn.Module = nn.Linear(x.shape[1], classes)
        else:
            net = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, classes))
        optimiser = torch.optim.AdamW(net.parameters(), lr=RATE if hidden is None else RATE / 10, weight_decay=DECAY)
        for _ in range(STEPS):
            loss = nn.functional.cross_entropy(net(x), label)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def _best_ridge(released: Photos, originals: Photos, known: Indices, threat: Threat) -> float:
    """Tried on a fifth of the known people after a fit on the others; by the mean reciprocal rank."""
    tried, rest = known[::5], np.setdiff1d(known, known[::5])

    def score(ridge: float) -> float:
        found = _mapped_search(released, originals, rest, tried, ridge, threat)
        return float(np.mean(1 / found.rank)) if len(found.rank) else 0.0

    return max(RIDGES, key=score)


def _mapped_search(
    released: Photos, originals: Photos, known: Indices, others: Indices, ridge: float, threat: Threat
) -> SearchResult:
    pairs = _pairs(released, originals, known)
    mean_in, mean_out, weights = _ridge(released.vectors[pairs[0]], originals.vectors[pairs[1]], ridge)
    whiten = _whitening(released, originals, known, (mean_in, mean_out, weights))
    query = released[np.isin(released.person, others)]
    mapped = query.seen_as(((query.vectors - mean_in) @ weights @ whiten).astype(np.float32))
    left = originals[~np.isin(originals.person, known)]
    return search(mapped, left.seen_as(((left.vectors - mean_out) @ whiten).astype(np.float32)), threat)


def _pairs(released: Photos, originals: Photos, known: Indices) -> tuple[Indices, Indices]:
    """All (released, clean) rows of the same known person, the own source among them: the attacker has that, too."""
    rows = np.flatnonzero(np.isin(released.person, known))
    order = np.argsort(originals.person, kind="stable")
    ordered = originals.person[order]
    first, end = (np.searchsorted(ordered, released.person[rows], side=side) for side in ("left", "right"))
    counts = end - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), order[np.repeat(first, counts) + within]


def _ridge(x: Vectors, y: Vectors, ridge: float) -> tuple[Matrix, Matrix, Matrix]:
    """Means and W that minimise ‖(x − x̄)W − (y − ȳ)‖² + λ‖W‖², λ = `ridge` × n × mean variance of x."""
    mean_in, mean_out = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    a, b = x - mean_in, y - mean_out
    scatter = a.T @ a
    scatter += ridge * max(np.trace(scatter) / len(scatter), 1e-12) * np.eye(len(scatter))
    return mean_in, mean_out, np.linalg.solve(scatter, a.T @ b)


def _whitening(released: Photos, originals: Photos, known: Indices, fit: tuple[Matrix, Matrix, Matrix]) -> Matrix:
    """Symmetric Σ^(−1/2) of the scatter within people of mapped and clean embeddings, shrunk by .2 to its mean."""
    mean_in, mean_out, weights = fit
    ours, theirs = np.isin(released.person, known), np.isin(originals.person, known)
    points = np.concatenate([(released.vectors[ours] - mean_in) @ weights, originals.vectors[theirs] - mean_out])
    people = np.unique(np.concatenate([released.person[ours], originals.person[theirs]]), return_inverse=True)[1]
    sums = np.zeros((people.max() + 1, points.shape[1]))
    np.add.at(sums, people, points)
    spread = points - (sums / np.bincount(people)[:, None])[people]
    within = spread.T @ spread / len(spread)
    shrunk = 0.8 * within + 0.2 * max(np.trace(within) / len(within), 1e-12) * np.eye(len(within))
    values, directions = np.linalg.eigh(shrunk)
    return directions / np.sqrt(values) @ directions.T


def trained(released: Photos, originals: Photos, threat: Threat) -> Searches:
    """Runs all trained attackers with one recogniser and returns the figures of each by its name.

    None stands for an attacker with too few people. Under T2 only the map is run, and its gallery holds the source
    itself.
    """
    made, clean = reduced(released, originals)
    mapped: Searches = {"map_to_clean": map_to_clean(made, clean, threat)}
    if threat == "T2":
        return mapped
    return {"softmax": classify(made), "perceptron": classify(made, hidden=HIDDEN), **mapped}


def reduced(released: Photos, originals: Photos) -> tuple[Photos, Photos]:
    """Projects long vectors on at most `COMPONENTS` principal directions of all vectors that the attacker sees.

    Clean and released vectors get the same projection. Vectors that are short enough come back as they are.
    """
    if released.vectors.shape[1] <= COMPONENTS or not len(released) or not len(originals):
        return released, originals
    import torch

    both = torch.from_numpy(np.concatenate([originals.vectors, released.vectors]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        directions = torch.svd_lowrank(both - both.mean(0), q=min(COMPONENTS, *both.shape), niter=3)[2]
    projected = ((both - both.mean(0)) @ directions).numpy()
    return released.seen_as(projected[len(originals) :]), originals.seen_as(projected[: len(originals)])
