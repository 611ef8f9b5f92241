"""From originals and the noise that hid them to the figures of a bound, and from a wanted bound to the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.anonymity.bound.figures import BoundFigures, Found
from pipeline.anonymity.bound.gaussian import DELTA, epsilon_of, interval, told_apart
from pipeline.anonymity.bound.search import Levels, critical_levels, distances

TRIALS, TRIALS_OF_ONE = 20_000, 2_000
"""How many times originals are noised anew: all of them, in turn; and the most isolated one."""


@dataclass(frozen=True, kw_only=True)
class Originals:
    """What an attacker holds who holds everything."""

    keys: tuple[str, ...]
    """`[N]`: the full key of each candidate."""
    latents: Tensor
    """float32 `[N, D]`: what the model encodes each to."""
    groups: Tensor
    """int64 `[N]`: equal where all is equal that an output tells beside its pixels, such as its size."""
    looks: Tensor
    """uint8 `[N, 35]`: what each looks like, by which near-copies are found; see `looks_of`."""
    total: int
    """How many originals there are; more than N where only a random part of them are candidates."""


class Round(NamedTuple):
    """One attempt of the job, the operator's own level or one of the ladder."""

    sigma: float
    """The level that hides an original, all its copies taken as one look."""
    released: int
    """How many originals have images that passed in this attempt."""


def drawn(originals: Originals, trials: int = TRIALS) -> tuple[Levels, Tensor]:
    """Critical levels `[T]`, and the number of the original `[T]` that each draw noises: all of them equally often, and
    `trials` times in all or a few more.
    """
    count = len(originals.keys)
    sources = torch.arange(count, device=originals.latents.device).repeat(-(-trials // count))
    return critical_levels(originals.latents, originals.groups, sources), sources


def level_for(critical: Levels, bound: float) -> float:
    """The smallest level σ at which the interval of the rank-1 rate ends at `bound` or below.

    Raises `ValueError` where there is none: by chance alone the rate is higher, or there are too few draws to tell.
    """
    allowed = -1
    while allowed < len(critical) - 1 and interval(allowed + 1, len(critical))[1] <= bound:
        allowed += 1
    level = np.inf if allowed < 0 else float(np.sort(critical)[::-1][allowed])
    if not np.isfinite(level):
        raise ValueError("by chance alone the source is found more often, or too few draws were made to tell")
    return level


def figures(originals: Originals, sigma: Levels, rounds: Sequence[Round], asked: float | None = None) -> BoundFigures:
    """The figures of a release. `sigma [N]` is the level that hides each candidate, all looks at it taken as one.

    That the gate withholds and lets pass tells more than Gaussian noise does. But an attacker who is right about an
    image that was released in some round is right about a noised latent of that round. So of all originals, at most
    the share that is found without a gate is both released and found in that round, whatever the gate goes by.
    """
    critical, sources = drawn(originals)
    own = sigma[sources.cpu().numpy()]
    nearest, largest = distances(originals.latents, originals.groups)
    least = float(sigma.min())
    lonely = torch.full((TRIALS_OF_ONE,), int(nearest.argmax()))
    lonely = lonely.to(originals.latents.device)
    alone = critical_levels(originals.latents, originals.groups, lonely, seed=1)
    confidence = 1 - 0.05 / max(len(rounds), 1)
    found = sum(
        min(originals.total * interval(int((critical > one.sigma).sum()), len(critical), confidence)[1], one.released)
        for one in rounds
    )
    return BoundFigures(
        originals=originals.total, candidates=len(originals.keys), trials=len(critical), least_noise=least,
        rank_1=_found(critical > own), chance=len(originals.groups.unique()) / len(originals.keys),
        with_gate=found / sum(one.released for one in rounds),
        most_isolated=_found(alone > least), of_two=told_apart(largest, least),
        epsilon=epsilon_of(largest, least) if least else None, delta=DELTA, asked=asked,
    )  # fmt: skip


def _found(hits: np.ndarray) -> Found:
    low, high = interval(int(hits.sum()), len(hits))
    return Found(share=float(hits.mean()), low=low, high=high)
