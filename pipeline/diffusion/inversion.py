"""The probability-flow ODE as a map that has an inverse: from an image to its latent, and back."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import Levels, grid
from pipeline.diffusion.solvers import SOLVERS, integrate


class Inversion(BaseModel):
    """How an operator goes up and down the ODE. No noise is drawn.

    The image itself stands for the point at the smallest level of its model (at σ = 0 the ODE has no direction),
    on the way up as on the way down: what differs between both is the error of the solver.
    """

    steps: int = Field(default=20, ge=1)
    """Each way."""
    solver: Literal["heun", "dpmpp_2m", "euler"] = "heun"
    spacing: Literal["karras", "linspace"] = "karras"
    level: LevelRange = LevelRange(unit="sigma", low=80, high=80)
    """Where the latent lies; at most the model's noisiest level."""

    def ladder(self, levels: Levels, top: Tensor) -> Tensor:
        """σ from `top` (σ, `[B]`) down to the model's smallest, float64 `[B, steps+1]`; flipped, the way up."""
        return grid(levels, top, self.steps + 1, self.spacing)[:, :-1]

    def walk(self, denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
        return integrate(denoiser, x, sigmas.to(x), solver=SOLVERS[self.solver])


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """From `a` to `b`, both `[B, ...]`, along the great circle: `share [B]` 0 is a, 1 is b.

    `(sin((1−t)·ω)·a + sin(t·ω)·b)/sin ω` with ω the angle between them; independent Gaussian latents keep their norm.
    """
    p, q = (x.flatten(1).double() for x in (a, b))
    cosine = (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1)).clamp(min=torch.finfo(p.dtype).tiny)
    angle = torch.acos(cosine.clamp(-1, 1))
    t, straight = share.to(p), torch.sin(angle) < 1e-6
    weight_a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    weight_b = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle))
    return per_row(weight_a, a) * a + per_row(weight_b, b) * b
