"""The bound on whoever holds the originals, over levels: Monte Carlo and closed forms on the model's latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.anonymity.bound.gaussian import epsilon_of, interval, told_apart
from pipeline.anonymity.bound.measuring import TRIALS_OF_ONE, Originals, drawn, level_for
from pipeline.anonymity.bound.search import critical_levels, distances
from pipeline.engine.bounding import gather
from pipeline.job.plan import Plan

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
BOUNDS = (0.5, 0.1, 0.05, 0.01)
ROUNDS = 30
"""Rounds of Sinkhorn's scaling."""


def bounds(plan: Plan) -> dict[str, Any]:
    """What the best attacker finds at each level, and the level for each bound."""
    held = gather(plan)
    assert plan.outline is not None
    levels = plan.outline.levels
    critical, _ = drawn(held)
    nearest, largest = distances(held.latents, held.groups)
    lonely = torch.full((TRIALS_OF_ONE,), int(nearest.argmax()))
    alone = critical_levels(held.latents, held.groups, lonely, seed=1)
    rows = {}
    for level in LEVELS:
        sigma = float(levels.sigma(torch.tensor(level, dtype=torch.float64)))
        rows[str(level)] = {
            "sigma": sigma, "rank_1": share(critical > sigma), "most_isolated": share(alone > sigma),
            "of_two": told_apart(largest, sigma), "epsilon": epsilon_of(largest, sigma),
            "all_matched_together": together(held, sigma),
        }  # fmt: skip
        print(level, rows[str(level)], flush=True)
    found = {
        str(bound): float(levels.fraction(torch.tensor(level_for(critical, bound), dtype=torch.float64)))
        for bound in BOUNDS
    }
    return {
        "originals": held.total, "dimensions": held.latents.shape[1], "trials": len(critical),
        "nearest": [round(float(np.quantile(nearest, q)), 1) for q in (0, 0.5, 1)], "largest": round(largest, 1),
        "levels": rows, "level_for": found,
    }  # fmt: skip


def share(hits: np.ndarray) -> dict[str, float]:
    low, high = interval(int(hits.sum()), len(hits))
    return {"share": float(hits.mean()), "low": low, "high": high}


def together(held: Originals, sigma: float) -> float:
    """The share that an attacker finds who noised latents of all originals, each one's once, matches with them at once.

    The probabilities of all matchings are summed by Sinkhorn's scaling, which is an approximation.
    """
    latents = held.latents - held.latents.mean(0)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    likelihoods = ((latents + sigma * noise) @ latents.T - (latents**2).sum(1) / 2) / sigma**2
    for _ in range(ROUNDS):
        likelihoods -= likelihoods.logsumexp(1, keepdim=True)
        likelihoods -= likelihoods.logsumexp(0, keepdim=True)
    return float((likelihoods.argmax(1) == torch.arange(len(likelihoods))).float().mean())
