"""How well a recogniser tells people apart, and how far an attacker gets: pure functions of distances.

Genuine (mated) distances are between two images of one person, impostor (non-mated) ones between two people. A pair is
recognised where its distance is at most the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Distances = NDArray[np.floating]
BINS = 100
"""The histograms behind D_sys have at most so many bins; fewer where a bin would hold under ten mated scores on
average."""


@dataclass(frozen=True, kw_only=True)
class Roc:
    """Every point of the receiver operating characteristic, from (0, 0) to (1, 1), as three arrays `[T]`."""

    far: NDArray[np.float64]
    """False acceptance rate: the fraction of impostor distances ≤ threshold."""
    tar: NDArray[np.float64]
    """True acceptance rate: the fraction of genuine distances ≤ threshold."""
    threshold: Distances
    """Ascending: one value below all distances, then every distance that occurs."""


def roc(genuine: Distances, impostor: Distances) -> Roc:
    """The curve of genuine distances `[A]` and impostor distances `[B]`.

    Raises `ValueError` where either is empty or holds NaN.
    """
    genuine, impostor = _distances(genuine, "genuine"), _distances(impostor, "impostor")
    threshold = np.unique(np.concatenate([genuine, impostor]))
    threshold = np.concatenate([[np.nextafter(threshold[0], threshold.dtype.type(-np.inf))], threshold])
    return Roc(far=_share_within(impostor, threshold), tar=_share_within(genuine, threshold), threshold=threshold)


def threshold_at_far(impostor: Distances, far: float) -> float:
    """The largest threshold whose FAR is at most `far`: the last float before one more impostor would be accepted.

    Raises `ValueError` unless 0 ≤ far < 1, and where distances are empty or not finite.
    """
    impostor = _distances(impostor, "impostor")
    if not 0 <= far < 1:
        raise ValueError(f"far is {far}; allowed is 0 ≤ far < 1")
    count = len(impostor)
    accepted = int(far * count)
    accepted += (accepted + 1) / count <= far  # the product may round down
    first_refused = np.partition(impostor, accepted)[accepted]
    return float(np.nextafter(first_refused, impostor.dtype.type(-np.inf)))


def tar_at_far(genuine: Distances, impostor: Distances, far: float) -> float:
    """The fraction of genuine distances within `threshold_at_far`."""
    return float(np.mean(_distances(genuine, "genuine") <= threshold_at_far(impostor, far)))


def eer(genuine: Distances, impostor: Distances) -> float:
    """The equal error rate, where FAR = 1 − TAR, interpolated linearly between two points of the curve."""
    curve = roc(genuine, impostor)
    excess = curve.far - (1 - curve.tar)  # from −1 to 1, never falling
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(curve.far[after - 1] + share * (curve.far[after] - curve.far[after - 1]))


def linkability(mated: Distances, nonmated: Distances, omega: float = 1.0) -> float:
    """The linkability D_sys in [0, 1]: 0 where mated and non-mated scores are alike, 1 where they never meet.

    Gomez-Barrero et al., "General framework to evaluate unlinkability in biometric template protection systems" (TIFS
    2018): D_sys = ∫ p(s|mated) · D(s) ds, where D(s) = 2·ω·LR / (1 + ω·LR) − 1 if ω·LR(s) > 1 and 0 otherwise. LR is
    the ratio of the two densities, here of histograms with common bins, and `omega` is P(mated) / P(non-mated).
    Histograms differ by chance: for equal distributions D_sys is .05 to .1 with a hundred to a thousand mated scores.
    """
    mated, nonmated = _distances(mated, "mated"), _distances(nonmated, "nonmated")
    both = np.concatenate([mated, nonmated]).astype(np.float64)
    edges = np.histogram_bin_edges(both, bins=int(np.clip(len(mated) // 10, 1, BINS)))
    p_mated = np.histogram(mated, edges)[0] / len(mated)
    p_nonmated = np.histogram(nonmated, edges)[0] / len(nonmated)
    weighted = omega * p_mated
    local = 2 * weighted / np.maximum(weighted + p_nonmated, np.finfo(np.float64).tiny) - 1
    return float(min(1, np.sum(p_mated * np.maximum(local, 0))))


def bootstrap_people(values: ArrayLike, people: ArrayLike, *, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `values [Q]`, drawing `people [Q]` again, each with all their values.

    Values of one person are not independent: drawing them one by one would give too narrow an interval. Where all
    values are equal, so are both ends; with no hit among n people, quote about 3 / n as the upper end. Raises
    `ValueError` for fewer than 2 people.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    counts = np.bincount(person)
    if len(counts) < 2:
        raise ValueError(f"people: {len(counts)} found; an interval needs 2 or more")
    sums = np.bincount(person, weights=np.asarray(values, dtype=np.float64))
    draws = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=rounds)
    low, high = np.quantile((draws @ sums) / (draws @ counts), [0.025, 0.975])
    return float(low), float(high)


def _distances(values: Distances, name: str) -> Distances:
    values = np.asarray(values)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"{name}: one or more finite distances are expected, found {values.size}")
    return values.ravel()


def _share_within(values: Distances, thresholds: Distances) -> NDArray[np.float64]:
    return np.searchsorted(np.sort(values), thresholds, side="right") / len(values)
