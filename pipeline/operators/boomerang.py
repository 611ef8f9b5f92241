"""Boomerang: local sampling on the image manifold (2210.12100, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.operators.conditions import Conditioned
from pipeline.operators.contract import Given, Transformed


class Boomerang(Conditioned):
    """Noises the image to t_boom with one draw, then runs the reverse process back to 0 (2210.12100, algorithm 1).

    t_boom = 0 is the identity, t_boom = 1 samples from scratch. The stochastic reverse (`ancestral`, `dpmpp_2m_sde`),
    not only the draw, keeps outputs from being near-duplicates of their input.
    """

    dial: ClassVar[str | None] = "t_boom"

    name: Literal["boomerang"] = "boomerang"
    t_boom: LevelRange = LevelRange(low=0.4, high=0.4)
    """The noise level that the image is taken to: more goes further from the image."""

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        sigmas = self.schedule(model, self.t_boom.draw(noise.uniform().to(z.device), model.levels))
        x = add_noise(z, sigmas[:, 0], noise)
        denoiser = self.denoiser(model, given, z)
        x = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise)
        return Transformed(model.decode(x), sigmas)
