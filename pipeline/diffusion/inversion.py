"""The probability-flow ODE as a map that has an inverse: from an image to its latent, and back."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.latent_stage import pattern
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import Levels
from pipeline.diffusion.solvers import SOLVERS, integrate


class Inversion(BaseModel):
    """How an operator goes up and down the ODE.

    The image itself stands for the point at the smallest level of its model (at σ = 0 the ODE has no direction),
    on the way up as on the way down: what differs between both is the error of the solver.
    """

    steps: int = Field(default=20, ge=1)
    """How many steps are taken each way."""
    solver: Literal["heun", "dpmpp_2m", "euler"] = "heun"
    """The solver of the ODE, up and down."""
    spacing: Literal["karras", "linspace"] = "karras"
    """How the levels are spaced: `karras` is linear in σ^(1/7) (2206.00364, eq. 5), `linspace` in the fraction of T."""
    level: LevelRange = LevelRange(unit="sigma", low=80, high=80)
    """The noise level at which the latent lies; at most the model's noisiest."""

    lift: float = Field(default=0.0, ge=0)
    """The level σ from which the way up starts, with one Gaussian pattern of that deviation, the same for every image,
    added. A flat background has no noise to be inverted: without a lift its latent lacks deviation, and resists
    change."""

    def ladder(self, levels: Levels, top: Tensor, lowest: float = 0.0) -> Tensor:
        """The levels σ from `top` (σ, `[B]`) down to the model's smallest, or `lowest` if that is more: float64 `[B,
        steps+1]`.

        Flipped, they are the way up.
        """
        high = top.double()[:, None]
        low = levels.sigma(torch.full_like(high, 1 / levels.steps)).clamp(min=lowest).minimum(high)
        ramp = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64, device=top.device)
        if self.spacing == "karras":  # 2206.00364, eq. 5
            sigmas = torch.lerp(high ** (1 / 7), low ** (1 / 7), ramp) ** 7
        else:
            sigmas = levels.sigma(torch.lerp(levels.fraction(high), levels.fraction(low), ramp))
        return sigmas.maximum(low).minimum(high)

    def lifted(self, x: Tensor, top: Tensor) -> Tensor:
        """Where the way up to `top` begins for the image `x [B, ...]`."""
        return x + per_row(top.clamp(max=self.lift), x) * pattern(x, 0)

    def walk(self, denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
        """Walks `x [B, ...]` along its row of `sigmas [B, steps+1]`, without any noise."""
        return integrate(denoiser, x, sigmas.to(x), solver=SOLVERS[self.solver])


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Goes from `a` to `b`, both `[B, ...]`, along the great circle: at `share [B]` 0 is a, at 1 b.

    `(sin((1−t)·ω)·a + sin(t·ω)·b)/sin ω` with ω the angle between them; independent Gaussian latents keep their norm.
    """
    p, q = (x.flatten(1).double() for x in (a, b))
    cosine = (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1)).clamp(min=torch.finfo(p.dtype).tiny)
    angle = torch.acos(cosine.clamp(-1, 1))
    t, straight = share.to(p), torch.sin(angle) < 1e-6
    weight_a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    weight_b = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle))
    return per_row(weight_a, a) * a + per_row(weight_b, b) * b
