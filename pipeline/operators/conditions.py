"""From the conditions of a recipe to estimates: names to classes, guidance, all in one call of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, Joint, guided, steered
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import to_sigma
from pipeline.diffusion.model import Model, Outline, RowCondition
from pipeline.errors import UserError
from pipeline.operators.contract import Condition, Descent, Given
from pipeline.section import Section


class Guidance(Section):
    """Classifier-free guidance (2207.12598). A number is its scale; up to 1 there is no guidance, and the model runs
    once a step.
    """

    scale: float = Field(default=1.0, ge=0)
    """How many times the way from the estimate without the condition to that with it is gone (2207.12598, eq. 6: 1 +
    w)."""
    rescale: float = Field(default=0.0, ge=0, le=1)
    """Share in [0, 1] to which the deviation of the unguided estimate is restored (2305.08891, eq. 15 and 16)."""
    interval: LevelRange = LevelRange(low=0, high=1)
    """The noise levels at which guidance acts (2404.07724)."""
    negative: Condition = "none"
    """The condition that guidance leads away from."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"scale": value} if isinstance(value, int | float) else value

    @property
    def acts(self) -> bool:
        """Whether there is any guidance."""
        return self.scale > 1.0

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What it asks the model for, beside the condition that it leads to."""
        return (self.negative,) if self.acts else ()


NO_GUIDANCE = Guidance()
"""The scale 1: estimates as the model gives them."""


def check_conditions(model: Outline, conditions: Sequence[Condition], guidance: Guidance = NO_GUIDANCE) -> None:
    """Raises `UserError` for a class that the model does not know, or guidance that it cannot give."""
    for condition in [*conditions, *guidance.conditions]:
        if condition == "none" and not model.unconditional:
            raise UserError("condition none: the model was trained with labels only (no class dropout)")
        if condition == "edited" and model.conditioning != "text":
            raise UserError("condition edited: the model takes no prompts")
        if condition not in ("own", "edited", "none"):
            row_of(model, condition)
    if guidance.acts and model.conditioning == "none":
        raise UserError(f"guidance {guidance.scale:g}: the model has no classes and no prompts to be guided by")


def row_of(model: Outline, condition: Condition) -> RowCondition:
    """A class given by number or name as its label; a prompt as it is. Raises `UserError` with what there is."""
    if model.conditioning == "text":
        if isinstance(condition, str):
            return condition
        raise UserError(f"condition {condition!r}: the model takes prompts, and a prompt is text")
    names = model.class_names or ()
    if model.classes is None:
        raise UserError(f"condition {condition!r}: the model has no classes and takes no prompts")
    if isinstance(condition, str) and condition in names:
        return names.index(condition)
    if isinstance(condition, int) and 0 <= condition < model.classes:
        return condition
    known = f"; names are {', '.join(names)}" if names else ""
    raise UserError(f"condition {condition!r} is not a class of the model: it knows 0 to {model.classes - 1}{known}")


def rows_for(model: Outline, condition: Condition, given: Given, count: int) -> list[RowCondition]:
    """The condition of each of `count` images. It is None for "none", and for all images of a model without
    conditions.
    """
    if condition == "own" and model.conditioning == "class" and given.labels is not None:
        return [label if label >= 0 else None for label in given.labels.tolist()]
    if condition == "own" and model.conditioning == "text" and given.captions is not None:
        return list(given.captions)
    if condition == "edited" and given.edited is not None:
        return list(given.edited)
    if condition in ("own", "edited", "none") or model.conditioning == "none":
        return [None] * count
    return [row_of(model, condition)] * count


def joint(model: Model, conditions: Sequence[Condition], guidance: Guidance, given: Given, z: Tensor) -> Joint:
    """Makes one guided estimate for each condition, all from one call of the model, each within the model's limits. `z
    [B, …]` tells how many images there are.
    """
    return led(model, [rows_for(model, condition, given, len(z)) for condition in conditions], guidance, given, z)


def led(model: Model, rows: Sequence[Sequence[RowCondition]], guidance: Guidance, given: Given, z: Tensor) -> Joint:
    """Does what `joint` does, for conditions that are resolved already: K lists of B rows."""
    if guidance.acts:
        away = rows_for(model, guidance.negative, given, len(z))
        ends = torch.tensor([guidance.interval.low, guidance.interval.high], dtype=torch.float64)
        low, high = sorted(to_sigma(ends.to(z.device), guidance.interval.unit, model.levels).tolist())
        estimate = together(model, [*rows, *[away] * len(rows)])
        estimate = guided(estimate, guidance.scale, rescale=guidance.rescale, interval=(low, high))
    else:
        estimate = together(model, rows)
    return lambda xs, sigma: [model.limit(x0) for x0 in estimate(xs, sigma)]


def conditioned(model: Model, condition: Condition, guidance: Guidance, given: Given, z: Tensor) -> Denoiser:
    """Makes the (guided) estimate of the clean images under one condition."""
    estimate = joint(model, [condition], guidance, given, z)
    return lambda x, sigma: estimate([x], sigma)[0]


def together(model: Model, rows: Sequence[Sequence[RowCondition]]) -> Joint:
    """Makes the estimates of B images under K conditions from one batch of K·B."""
    denoise = model.denoiser([row for condition in rows for row in condition])

    def estimate(xs: Sequence[Tensor], sigma: Tensor) -> Sequence[Tensor]:
        return denoise(torch.cat(list(xs)), sigma.repeat(len(xs))).chunk(len(xs))

    return estimate


class Conditioned(Descent):
    """An operator that walks down under one condition, with or without guidance."""

    steerable: ClassVar[bool] = True

    condition: Condition = "own"
    """The condition of every image."""
    guidance: Guidance = NO_GUIDANCE
    """How much more than the model itself does the output shows its condition; by default not at all."""

    @property
    def keeps_places(self) -> bool:
        return True

    def conditions_used(self) -> tuple[Condition, ...]:
        return (self.condition, *self.guidance.conditions)

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        check_conditions(model, [self.condition], self.guidance)

    def denoiser(self, model: Model, given: Given, z: Tensor) -> Denoiser:
        """The estimate that the walk follows, for a batch like `z [B, …]`."""
        found = conditioned(model, self.condition, self.guidance, given, z)
        return found if given.steer is None else steered(found, given.steer)
