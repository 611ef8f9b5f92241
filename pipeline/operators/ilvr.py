"""ILVR: iterative latent variable refinement, sampling with a reference's low frequencies (2108.02938)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.cells import cell_side
from pipeline.diffusion.constraints import consistent, from_level, pooling
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.errors import UserError
from pipeline.operators.conditions import Conditioned
from pipeline.operators.contract import Extra, Given, Transformed


class ILVR(Conditioned):
    """Samples from noise, with x ← x − φ_N(x) + φ_N(y noised to the same level) after each step (2108.02938, algorithm
    1).

    y is the guide, else the image itself; φ_N takes the mean of each N × N square. The paper's φ_N, bicubic down and
    up, is no projection: applied twice it blurs twice, and the output's φ_N would only be near the reference's. On
    latents the means are those of latents, and pixels follow as well as the decoder is linear.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset({"guide"})

    name: Literal["ilvr"] = "ilvr"
    factor: int = Field(default=4, ge=2)
    """N, the side of the squares in pixels: the larger, the less is taken from the reference."""
    floor: LevelRange = LevelRange(low=0, high=0)
    """The lowest noise level at which the constraint acts; 0 makes it hold exactly in the output."""

    @property
    def not_on_clips(self) -> str | None:
        return "measures squares of single images"

    def check(self, model: Outline, second: Outline | None) -> None:
        (height, width), side = model.size, cell_side(model)
        if self.factor % side or self.factor == side:
            raise UserError(
                f"ilvr: factor is {self.factor}; on latents with cells of {side} × {side} pixels, allowed are "
                f"multiples of {side} from {2 * side} on"
            )
        if height % self.factor or width % self.factor:
            raise UserError(f"ilvr: factor {self.factor} does not divide the model's {height} × {width} pixels")
        super().check(model, second)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        sigmas = self.schedule(model, model.levels.sigma(torch.ones(len(z), device=z.device)))
        floor = self.floor.draw(noise.uniform().to(z.device), model.levels)
        reference = z if given.guide is None else model.encode(given.guide)
        refine = from_level(floor, consistent(pooling(self.factor // cell_side(model)), reference, noise))
        x = add_noise(torch.zeros_like(z), sigmas[:, 0], noise)
        denoiser = self.denoiser(model, given, z)
        x = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise, constraint=refine)
        return Transformed(model.decode(x), sigmas)
