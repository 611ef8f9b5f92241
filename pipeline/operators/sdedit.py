"""SDEdit: guided image synthesis and editing with SDEs (2108.01073, algorithms 1 to 3)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.cells import to_cells
from pipeline.diffusion.constraints import keep, shared
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate, unconstrained
from pipeline.operators.conditions import Conditioned
from pipeline.operators.contract import Extra, Given, Transformed, finished


class SDEdit(Conditioned):
    """Noises a guide (strokes, a sketch, a composite; else the image itself) to t0, then runs back to 0 (2108.01073).

    With a mask, what it keeps is `x0 + σ·ε` after every step, with one and the same ε, and the image's own in the end;
    what it changes starts from the guide. Each of the `repeats` begins where the last one ended. Without mask, guide
    and repeats this is Boomerang.
    """

    dial: ClassVar[str | None] = "t0"
    keeps_unmasked: ClassVar[bool] = True
    accepts: ClassVar[frozenset[Extra]] = frozenset({"mask", "guide"})

    name: Literal["sdedit"] = "sdedit"
    t0: LevelRange = LevelRange(low=0.5, high=0.5)
    """The noise level that the guide is taken to: more is more realistic, less is more faithful to the guide. The
    paper's sweet spot is .3 to .6 of its SDE."""
    repeats: int = Field(default=1, ge=1)
    """How many times the guide is noised and denoised (the paper's K)."""

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"repeats": 1})

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        sigmas = self.schedule(model, self.t0.draw(noise.uniform().to(z.device), model.levels))
        denoiser = self.denoiser(model, given, z)
        x = z if given.guide is None else model.encode(given.guide)
        mask = None if given.mask is None else to_cells(given.mask, z)
        if mask is not None:
            x = torch.where(mask < 0.5, z, x)
        for _ in range(self.repeats):
            epsilon = shared(noise, z)
            held = unconstrained if mask is None else keep(mask, z, epsilon)
            x = add_noise(x, sigmas[:, 0], epsilon)
            x = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise, constraint=held)
        return Transformed(finished(model, x, z, given), sigmas)
