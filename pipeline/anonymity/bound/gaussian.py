"""Closed forms of the Gaussian mechanism `x = z + σ·ε`: looks that add up, two originals told apart, privacy (ε, δ)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

DELTA = 1e-5
"""The δ that ε is stated for."""


def one_look(sigmas: Iterable[float]) -> float:
    """The noise level of one look that shows as much as independent looks at these levels σ: `(Σ 1/σ²)^(−1/2)`.

    The sum of the looks' log-likelihoods depends on their mean weighted by 1/σ² alone, which has that deviation. One
    look at σ = 0 shows all: 0. No look shows nothing: ∞.
    """
    levels = np.array([*sigmas], dtype=np.float64)
    if (levels == 0).any():
        return 0.0
    precision = float((1 / levels**2).sum())
    return precision**-0.5 if precision else np.inf


def told_apart(distance: float, sigma: float) -> float:
    """The probability Φ(d/2σ) that the likelier of two originals at a distance d is the right one, in [.5, 1]."""
    from scipy.special import ndtr

    return 1.0 if sigma == 0 else float(ndtr(distance / (2 * sigma)))


def interval(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for a share, of `hits` in `trials`: exact, so never too short."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high


def delta_of(epsilon: float, distance: float, sigma: float) -> float:
    """The δ of the Gaussian mechanism for two inputs at a distance Δ (1805.06530, theorem 8):
    `Φ(Δ/2σ − εσ/Δ) − e^ε·Φ(−Δ/2σ − εσ/Δ)`.
    """
    from scipy.special import log_ndtr

    if distance == 0:
        return 0.0
    apart, shift = distance / (2 * sigma), epsilon * sigma / distance
    return float(np.exp(log_ndtr(apart - shift)) - np.exp(epsilon + log_ndtr(-apart - shift)))


def epsilon_of(distance: float, sigma: float, delta: float = DELTA) -> float:
    """The smallest ε ≥ 0 at which `delta_of` is at most `delta`, for σ > 0."""
    from scipy.optimize import brentq

    if delta_of(0.0, distance, sigma) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, distance, sigma) > delta:
        high *= 2
    return float(brentq(lambda epsilon: delta_of(epsilon, distance, sigma) - delta, 0.0, high))
