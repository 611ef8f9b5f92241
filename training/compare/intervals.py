"""What paired runs can show: the mean difference with its 95 % interval, and Holm's correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Confidence level of all intervals."""


@dataclass(frozen=True)
class Paired:
    """A mean difference with its interval, in the unit of the differences; `low`, `high` and `p` are nan for n = 1."""

    mean: float
    low: float
    high: float
    p: float
    """The two-sided p-value of there being no difference."""
    n: int
    """How many differences there are."""


def paired(differences: Sequence[float]) -> Paired:
    """Student's t test over `differences [S]`, one for each seed; equal differences have an interval of width 0.

    Raises `ValueError` where there are none, or one is not finite: the caller leaves failed pairs out.
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
    """Adjusts p-values, in the order given (Holm 1979, step-down); nan is no test, stays nan and is not counted.

    Raises `ValueError` for values outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values must lie in [0, 1], not {p.tolist()}")
    order = np.argsort(p)[: np.isfinite(p).sum()]  # nan sorts last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return [float(value) for value in adjusted]
