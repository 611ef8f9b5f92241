"""Attackers who hold a photograph itself (T2): was it in the input, and did a copy of it get into the release?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.attacks.figures import MembershipFigures, NearCopies
from pipeline.anonymity.attacks.identification import share
from pipeline.anonymity.attacks.photos import NEAR_COPY, Indices, Vectors
from pipeline.anonymity.faces.gallery import nearest
from pipeline.anonymity.faces.metrics import threshold_at_far
from pipeline.anonymity.faces.phash import hamming

ROUNDS, CHUNK = 500, 2048
"""Rounds of the bootstrap, and originals that are compared at a time."""
FPR, NEIGHBOURS = 1e-2, 10
"""The false positive rate at which members are counted, and the further releases that say how near is usual."""


def membership(
    inside: Vectors,
    outside: Vectors,
    released: Vectors,
    *,
    inside_people: Indices,
    outside_people: Indices,
    calibrated: bool = False,
) -> MembershipFigures | None:
    """Tests whether the distance to the nearest release tells originals of the input from images that were not in it.

    Takes unit vectors of the input `[A, D]`, of images outside it `[B, D]` and of the release `[R, D]`, where the first
    two should come from one distribution, and the numbers of the people in both. With `calibrated`, what counts is how
    much nearer the nearest release is than the next ten: some images are near to many (difficulty calibration,
    2111.08440). `auc` is .5 where the score tells nothing. Its interval, `low` to `high`, is a 95 % bootstrap over the
    people of both sides. Returns None where one of the three sets is empty, or there is nothing to calibrate by.
    """
    if not len(inside) or not len(outside) or len(released) < 1 + calibrated:
        return None
    near, far = (_scores(side, released, calibrated) for side in (inside, outside))
    rng = np.random.default_rng(0)
    drawn = [auc(near[_again(inside_people, rng)], far[_again(outside_people, rng)]) for _ in range(ROUNDS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = None
    if FPR * len(far) >= 1:
        found = share(near <= threshold_at_far(far, FPR), inside_people)
    return MembershipFigures(
        inside=len(near), outside=len(far), auc=auc(near, far), low=float(low), high=float(high), found=found
    )


def _scores(images: Vectors, released: Vectors, calibrated: bool) -> Vectors:
    """`[N]`: the smaller, the likelier a member."""
    distances = nearest(images, released, min(1 + NEIGHBOURS * calibrated, len(released)))[0]
    return distances[:, 0] - distances[:, 1:].mean(1) if calibrated else distances[:, 0]


def auc(near: Vectors, far: Vectors) -> float:
    """The probability that `near` is smaller than `far`, with ties counted half (Mann and Whitney 1947)."""
    ordered = np.sort(far)
    below, up_to = (np.searchsorted(ordered, near, side=side) for side in ("left", "right"))
    return float(1 - (below + up_to).mean() / 2 / len(far))


def near_copies(
    released: NDArray[np.uint64], originals: NDArray[np.uint64], *, bits: int = NEAR_COPY
) -> NearCopies | None:
    """Counts the released images whose perceptual hash is within `bits` (of 64) of some original's.

    `nearest` is the smallest difference of all pairs, in bits. Returns None where either set is empty.
    """
    if not len(released) or not len(originals):
        return None
    least = np.full(len(released), 64, dtype=np.uint8)
    for first in range(0, len(originals), CHUNK):
        least = np.minimum(least, hamming(released, originals[first : first + CHUNK]).min(axis=1))
    copies = int((least <= bits).sum())
    return NearCopies(released=len(released), bits=bits, copies=copies, nearest=int(least.min()))


def _again(people: Indices, rng: np.random.Generator) -> Indices:
    """Rows of as many people, drawn with replacement, each with all of theirs."""
    order = np.argsort(people, kind="stable")
    counts = np.unique(people, return_counts=True)[1]
    starts = np.cumsum(counts) - counts
    drawn = rng.integers(0, len(counts), len(counts))
    taken = counts[drawn]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return order[np.repeat(starts[drawn], taken) + within]
