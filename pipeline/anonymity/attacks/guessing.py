"""How often guessing would do as well as an attack, and the same for many attacks at once.

Of a hundred attacks that find nothing, two or three lie above chance with their whole 95 % interval. Before an attack
is said to beat chance, its probability is therefore corrected for the number of attacks (Holm, "A simple sequentially
rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.attacks.photos import Bools, Indices

DIGITS = 6
"""Chances are rounded to so many decimals, so that people of equal chance are computed once."""


def by_guessing(hits: Bools, chance: NDArray[np.float64], person: Indices) -> float:
    """The probability that guessing gives at least as many `hits [Q]` as there are.

    `chance [Q]` is that of each query, and `person [Q]` who is in it. Queries of one person are taken to hit or miss
    together, which is the worst case of their dependence: then the number of hits is a weighted sum of independent
    Bernoulli variables, whose distribution is computed exactly from its characteristic function.
    """
    people, own = np.unique(person, return_inverse=True)
    queries = np.bincount(own, minlength=len(people))
    each = np.round(np.bincount(own, weights=chance, minlength=len(people)) / queries, DIGITS)
    alike, count = np.unique(np.stack([queries, each]), axis=1, return_counts=True)
    length = len(hits) + 1
    turn = np.exp(-2j * np.pi * np.arange(length) / length)
    function = np.ones(length, dtype=np.complex128)
    for (weight, rate), times in zip(alike.T, count, strict=True):
        function *= (1 - rate + rate * turn ** int(weight)) ** int(times)
    density = np.fft.ifft(function).real.clip(min=0)
    return float(min(1.0, density[int(hits.sum()) :].sum()))


def holm(p: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number by Holm's step-down procedure, in the same order."""
    corrected, worst = [1.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = worst
    return corrected
