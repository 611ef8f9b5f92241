"""RePaint: inpainting with any diffusion model, by resampling (2201.09865, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.cells import to_cells
from pipeline.diffusion.constraints import keep, shared
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.operators.conditions import Conditioned
from pipeline.operators.contract import Extra, Given, Transformed, finished


class Inpaint(Conditioned):
    """Samples what the mask changes from noise; what it keeps is the image's own, noised to the level of each step
    (2201.09865).

    x_{t−1} = m·(known at t−1) + (1 − m)·(step), eq. 8. A jump back from σ' to σ adds noise of √(σ² − σ'²): on the next
    way down, the new part can follow the known one. In the end the known pixels are exactly the image's.
    """

    keeps_unmasked: ClassVar[bool] = True

    name: Literal["inpaint"] = "inpaint"
    jump_length: int = Field(default=5, ge=1)
    """How many steps one jump goes back."""
    resamples: int = Field(default=5, ge=1)
    """How many times each stretch is walked; 1 is plain replacement. The paper takes 250 steps, jumps of 10, 10
    times."""
    known_noise: Literal["fresh", "shared"] = "fresh"
    """`fresh` noises the known pixels anew at each level; with `shared` they carry one noise at all levels."""

    @model_validator(mode="after")
    def _there_is_room_to_jump(self) -> Inpaint:
        if self.resamples > 1 and self.jump_length >= self.steps:
            raise ValueError(f"jumps of {self.jump_length} steps need more than {self.steps} steps")
        return self

    @property
    def needs(self) -> frozenset[Extra]:
        return frozenset({"mask"})

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"resamples": 1})

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        assert given.mask is not None
        sigmas = self.schedule(model, model.levels.sigma(torch.ones(len(z), device=z.device)))
        denoiser = self.denoiser(model, given, z)
        hold = keep(to_cells(given.mask, z), z, shared(noise, z) if self.known_noise == "shared" else noise)
        x, low = torch.zeros_like(z), torch.zeros_like(sigmas[:, 0])
        for leg in time_travel(self.steps, self.jump_length, self.resamples):
            down = sigmas[:, [self.steps - level for level in leg]]
            x = hold(add_noise(x, torch.sqrt(down[:, 0] ** 2 - low**2), noise), down[:, 0])
            x = integrate(denoiser, x, down.to(z), solver=self.stepper(), noise=noise, constraint=hold)
            low = down[:, -1]
        return Transformed(finished(model, x, z, given), sigmas)


def time_travel(steps: int, jump_length: int, resamples: int) -> Sequence[range]:
    """The ways down through the levels from `steps` (noise) to 0 (clean); between two of them lies a jump back.

    At every `jump_length`-th level from 1 on, it jumps back as far, `resamples` − 1 times. For 250, 10 and 10 that is
    2,410 steps down, and 2,160 up (2201.09865).
    """
    legs, top = [], steps
    for turn in reversed(range(1, steps - jump_length + 1, jump_length)):
        for _ in range(resamples - 1):
            legs.append(range(top, turn - 1, -1))
            top = turn + jump_length
    return [*legs, range(top, -1, -1)]
