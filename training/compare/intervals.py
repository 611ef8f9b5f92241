"""What paired runs can show: the mean difference with its 95 % interval, and Holm's correction for many questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """`mean` with its interval, in the unit of the differences; `low`, `high` and `p` are nan for n = 1."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""
    n: int


def paired(differences: Sequence[float]) -> Paired:
    """Student's t over `differences [S]`, one a seed. Differences that are all alike are taken at their word.

    Raises `ValueError` without differences, or if one is not finite: the caller leaves failed pairs out.
    """
    from scipy.stats import ttest_1samp

    values = np.asarray(differences, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite and at least one, not {values.tolist()}")
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Paired(mean, np.nan, np.nan, np.nan, n)
    if np.ptp(values) == 0:
        return Paired(mean, mean, mean, float(mean == 0), n)
    test = ttest_1samp(values, 0.0)
    interval = test.confidence_interval(LEVEL)
    return Paired(mean, float(interval.low), float(interval.high), float(test.pvalue), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p in the order given (Holm 1979, step-down); nan, which is no test, stays nan and is not counted.

    Raises `ValueError` outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values must lie in [0, 1], not {p.tolist()}")
    order = np.argsort(p)[: np.isfinite(p).sum()]  # nan sorts last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return [float(value) for value in adjusted]
