"""The most likely source of a noised original, by Monte Carlo: for each draw of noise, up to which level it is found.

With equal priors the most likely source of `x = z_i + σ·ε` is the nearest original. The one at z_c is nearer than z_i
if and only if `|d|² + 2σ⟨ε, d⟩ < 0` for `d = z_i − z_c`: from the level `|d|² / −2⟨ε, d⟩` on. So each draw of ε has one
critical level, below which the source is found and above which it is not, and one set of draws gives the rate of every
level, falling and without further noise between levels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Levels = NDArray[np.float64]
ROWS = 512
"""Draws that are compared with all originals at a time."""
SAME = 1e-4
"""Originals nearer than this fraction of the mean squared norm of all (their mean being 0) are one photograph: finding
either is finding the other."""


def critical_levels(latents: Tensor, groups: Tensor, sources: Tensor, seed: int = 0) -> Levels:
    """The level σ of each of T draws below which its source is found, float64 `[T]`; ∞ where it is found at any.

    `latents [N, D]` are float32. `groups`, int64 `[N]`, tells what is known of an original beside its noised latent:
    those of another group than the source's are no candidates. `sources`, int64 `[T]`, says which original is noised.
    The same seed gives the same noise, whatever the device.
    """
    centred, norms = _centred(latents)
    generator = torch.Generator().manual_seed(seed)
    found = list[Tensor]()
    for own in sources.split(ROWS):
        noise = torch.randn(len(own), centred.shape[1], generator=generator).to(centred)
        squared = _squared(centred, norms, own)
        along = (noise * centred[own]).sum(1, keepdim=True) - noise @ centred.T  # ⟨ε, d⟩
        rival = (along < 0) & (squared > SAME * norms.mean()) & (groups == groups[own, None])
        found.append(torch.where(rival, squared / (-2 * along), torch.inf).amin(1))
    return torch.cat(found).double().cpu().numpy()


def distances(latents: Tensor, groups: Tensor) -> tuple[Levels, float]:
    """The distance of each original to its nearest other candidate, `[N]` (∞ where it has none), and the largest
    between any two candidates, 0 where there are no two.
    """
    centred, norms = _centred(latents)
    nearest, largest = list[Tensor](), 0.0
    for own in torch.arange(len(centred), device=centred.device).split(ROWS):
        squared = _squared(centred, norms, own)
        rival = (squared > SAME * norms.mean()) & (groups == groups[own, None])
        nearest.append(torch.where(rival, squared, torch.inf).amin(1).sqrt())
        largest = max(largest, float(torch.where(rival, squared, 0).amax().sqrt()))
    return torch.cat(nearest).double().cpu().numpy(), largest


def _centred(latents: Tensor) -> tuple[Tensor, Tensor]:
    """The latents with mean 0, which keeps digits, and their squared norms."""
    centred = latents - latents.mean(0)
    return centred, (centred**2).sum(1)


def _squared(centred: Tensor, norms: Tensor, own: Tensor) -> Tensor:
    return norms[own, None] + norms - 2 * centred[own] @ centred.T
