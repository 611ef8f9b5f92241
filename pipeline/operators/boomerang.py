"""Boomerang: local sampling on the image manifold (2210.12100, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.level_range import LevelRange, SoughtLevel
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.operators.conditions import Conditioned
from pipeline.operators.contract import Given, Operator, Transformed


class Boomerang(Conditioned):
    """Noises the image to t_boom with one draw, then runs the reverse process back to 0 (2210.12100, algorithm 1).

    t_boom = 0 is the identity, t_boom = 1 samples from scratch. The stochastic reverse (`ancestral`, `dpmpp_2m_sde`),
    not only the draw, keeps outputs from being near-duplicates of their input.
    """

    dial: ClassVar[str | None] = "t_boom"

    name: Literal["boomerang"] = "boomerang"
    t_boom: SoughtLevel = SoughtLevel(low=0.4, high=0.4)
    """The noise level that the image is taken to: more goes further from the image. `{bound: 0.01}` has `doppel run`
    find the lowest at which nobody who holds all originals finds the source of an output first in more than 1 % of the
    cases."""

    @property
    def sought(self) -> float | None:
        return self.t_boom.bound

    def least_noise(self, model: Outline) -> float | None:
        ends = self.t_boom.draw(torch.tensor([0.0, 1.0], dtype=torch.float64), model.levels)
        return float(self.schedule(model, ends)[:, 0].min())

    def at(self, level: LevelRange) -> Operator:
        return self.model_copy(update={"t_boom": SoughtLevel(**dict(level))})

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        sigmas = self.schedule(model, self.t_boom.draw(noise.uniform().to(z.device), model.levels))
        x = add_noise(z, sigmas[:, 0], noise)
        denoiser = self.denoiser(model, given, z)
        x = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise)
        return Transformed(model.decode(x), sigmas)
