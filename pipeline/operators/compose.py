"""Composition of conditions by AND and NOT (2206.01704)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, bounded, compose, mixture, per_row
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.model_match import mismatch
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.errors import UserError
from pipeline.operators.conditions import check_conditions, rows_for, together
from pipeline.operators.contract import Condition, Descent, Extra, Given, Transformed
from pipeline.section import Section


class Term(Section):
    """A condition, and how strongly it is asked for."""

    condition: Condition
    """What is asked for (AND), or asked away (NOT)."""
    weight: float = 3.0
    """How many times the way from the estimate without a condition to that with this one is gone; a negative weight is
    NOT."""


class Share(Section):
    """How a second model mixes in: `(1 − share)·D_1 + share·D_2` at the noise levels of the interval, D_1 elsewhere."""

    share: float = Field(default=0.5, ge=0, le=1)
    """The share of the second model's estimate, from 0 to 1."""
    interval: LevelRange = LevelRange(low=0, high=1)
    """The noise levels at which the second model mixes in."""


class Compose(Descent):
    """Denoises with `D_∅ + Σ w_i·(D_i − D_∅)` (2206.01704, eq. 11 and 12), from pure noise or from the image noised to
    `start`.

    A second model, under the same terms, mixes in as `mix` says.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset({"second_model"})

    name: Literal["compose"] = "compose"
    terms: tuple[Term, ...] = Field(min_length=1)
    """The conditions that are composed, at least one."""
    start: LevelRange = LevelRange(low=1, high=1)
    """The noise level that the walk starts from; below 1, something of the sample's own image is left."""
    mix: Share | None = None
    """How the second model mixes in; by default half of each at all levels."""

    @property
    def keeps_places(self) -> bool:
        return self.start.high < 1

    def conditions_used(self) -> tuple[Condition, ...]:
        return tuple(term.condition for term in self.terms)

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        if self.mix is not None and second is None:
            raise UserError("compose: mix states the share of a second_model, and the recipe has none")
        if second is not None and (why := mismatch(model, second, own_labels="own" in self.conditions_used())):
            raise UserError(f"compose: second_model {why}")
        for one in [model] if second is None else [model, second]:
            check_conditions(one, ["none", *self.conditions_used()])

    def composed(self, model: Model, given: Given, z: Tensor) -> Denoiser:
        """The composed estimate of one model, within its limits, for a batch like `z [B, …]`."""
        rows = [rows_for(model, condition, given, len(z)) for condition in ["none", *self.conditions_used()]]
        return bounded(compose(together(model, rows), [term.weight for term in self.terms]), model.limit)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        start = self.start.draw(noise.uniform().to(z.device), model.levels)
        sigmas = self.schedule(model, start)
        below = start < model.levels.sigma(torch.ones_like(start))  # at the top nothing of the image is left
        denoiser = self.composed(model, given, z)
        if given.second is not None:
            mix, other = self.mix or Share(), self.composed(given.second, given, z)
            low, high = sorted(mix.interval.draw(start.new_tensor([0, 1]), model.levels).tolist())
            denoiser = mixture(denoiser, other, mix.share, interval=(low, high))
        x = add_noise(torch.where(per_row(below, z).bool(), z, 0), sigmas[:, 0], noise)
        x = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise)
        return Transformed(model.decode(x), sigmas)
