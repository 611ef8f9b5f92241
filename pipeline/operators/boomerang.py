"""Boomerang: local sampling on the image manifold (2210.12100, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import Spacing, grid
from pipeline.diffusion.model import Model
from pipeline.diffusion.solvers import SOLVERS, Ancestral, add_noise, integrate
from pipeline.noise import KeyedNoise
from pipeline.operators.contract import Operator, Transformed


class Boomerang(Operator):
    """Noise the image to t_boom with one draw, then run the reverse process back to 0.

    t_boom = 0 is the identity, t_boom = 1 samples from scratch. The stochastic reverse (`ancestral`,
    `dpmpp_2m_sde`), not only the draw, keeps outputs from being near-duplicates of their input.
    """

    stochastic: ClassVar[bool] = True
    invertible: ClassVar[bool] = False

    name: Literal["boomerang"] = "boomerang"
    t_boom: LevelRange = LevelRange(low=0.4, high=0.4)
    steps: int = Field(default=20, ge=1)
    """Denoising steps actually taken from t_boom to 0, whatever t_boom is."""
    solver: Literal["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"] = "ancestral"
    eta: float = Field(default=1.0, ge=0)
    """Of the ancestral solver: 1 is DDPM, 0 is DDIM."""
    spacing: Spacing | Literal["model"] = "trailing"
    """Grid between t_boom and 0; `leading` starts one stride below t_boom, `model` is the model's own."""

    @model_validator(mode="after")
    def _eta_belongs_to_ancestral(self) -> Boomerang:
        if self.eta != 1.0 and self.solver != "ancestral":
            raise ValueError(f"eta is an option of the ancestral solver, and solver is {self.solver}")
        return self

    def __call__(self, model: Model, z: Tensor, labels: Tensor | None, noise: KeyedNoise) -> Transformed:
        solver = Ancestral(eta=self.eta) if self.solver == "ancestral" else SOLVERS[self.solver]
        start = self.t_boom.draw(noise.uniform().to(z.device), model.levels)
        sigmas = grid(model.levels, start, self.steps, None if self.spacing == "model" else self.spacing)
        x = add_noise(z, sigmas[:, 0], noise)
        denoiser = model.denoiser(labels if self.use_labels else None)
        return Transformed(integrate(denoiser, x, sigmas.to(z), solver=solver, noise=noise), sigmas)
