"""From the conditions of a recipe to estimates: names to labels, guidance, all in one call of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, Joint, guided
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import to_sigma
from pipeline.diffusion.model import Model
from pipeline.errors import UserError
from pipeline.operators.contract import Condition, Descent, Given


class Guidance(BaseModel):
    """Classifier-free guidance (2207.12598): a number is its scale; 1 is none, and costs one call of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = Field(default=1.0, ge=0)
    rescale: float = Field(default=0.0, ge=0, le=1)
    """Share to which the deviation of the unguided estimate is restored (2305.08891, eq. 15 and 16)."""
    interval: LevelRange = LevelRange(low=0, high=1)
    """Levels at which guidance acts (2404.07724)."""
    negative: Condition = "none"
    """What guidance leads away from."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"scale": value} if isinstance(value, int | float) else value

    @property
    def acts(self) -> bool:
        return self.scale != 1.0

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What it asks the model for, beside what it leads to."""
        return (self.negative,) if self.acts else ()


NO_GUIDANCE = Guidance()


def check_conditions(model: Model, conditions: Sequence[Condition], guidance: Guidance = NO_GUIDANCE) -> None:
    """Raises `UserError` for a class that the model does not know, or guidance that it cannot give."""
    for condition in [*conditions, *guidance.conditions]:
        if condition == "none" and model.classes is not None and not model.unconditional:
            raise UserError("condition none: the model was trained with labels only (no class dropout)")
        if condition not in ("own", "none"):
            label_of(model, condition)
    if guidance.acts and model.classes is None:
        raise UserError(f"guidance {guidance.scale:g}: the model has no classes to be guided by")


def label_of(model: Model, condition: Condition) -> int:
    """The label of a class given by number or name. Raises `UserError` with the classes there are."""
    names = model.class_names or ()
    if model.classes is None:
        raise UserError(f"condition {condition!r}: the model has no classes")
    if isinstance(condition, str) and condition in names:
        return names.index(condition)
    if isinstance(condition, int) and 0 <= condition < model.classes:
        return condition
    known = f"; names are {', '.join(names)}" if names else ""
    raise UserError(f"condition {condition!r} is no class of the model: it knows 0 to {model.classes - 1}{known}")


def labels_for(model: Model, condition: Condition, given: Given, z: Tensor) -> Tensor | None:
    """int64 `[B]`, −1 for "none"; None for a model without classes."""
    if model.classes is None:
        return None
    if condition == "own" and given.labels is not None:
        return given.labels
    label = -1 if condition in ("own", "none") else label_of(model, condition)
    return torch.full((len(z),), label, dtype=torch.int64, device=z.device)


def joint(model: Model, conditions: Sequence[Condition], guidance: Guidance, given: Given, z: Tensor) -> Joint:
    """One guided estimate for each condition, all from one call of the model."""
    positive = [labels_for(model, condition, given, z) for condition in conditions]
    if not guidance.acts:
        return together(model, positive)
    negative = labels_for(model, guidance.negative, given, z)
    estimate = together(model, [*positive, *[negative] * len(positive)])
    ends = torch.tensor([guidance.interval.low, guidance.interval.high], dtype=torch.float64, device=z.device)
    low, high = sorted(to_sigma(ends, guidance.interval.unit, model.levels).tolist())
    return guided(estimate, guidance.scale, rescale=guidance.rescale, interval=(low, high))


def conditioned(model: Model, condition: Condition, guidance: Guidance, given: Given, z: Tensor) -> Denoiser:
    """The (guided) estimate under one condition."""
    estimate = joint(model, [condition], guidance, given, z)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return estimate([x], sigma)[0]

    return denoise


class Conditioned(Descent):
    """An operator that walks down under one condition."""

    label: Condition = "own"
    guidance: Guidance = NO_GUIDANCE

    def conditions_used(self) -> tuple[Condition, ...]:
        return (self.label, *self.guidance.conditions)

    def check(self, model: Model, second: Model | None) -> None:
        check_conditions(model, [self.label], self.guidance)

    def denoiser(self, model: Model, given: Given, z: Tensor) -> Denoiser:
        return conditioned(model, self.label, self.guidance, given, z)


def together(model: Model, labels: Sequence[Tensor | None]) -> Joint:
    """The estimates under K label vectors as one batch of K·B."""
    rows = [label for label in labels if label is not None]
    denoise = model.denoiser(torch.cat(rows) if rows else None)

    def estimate(xs: Sequence[Tensor], sigma: Tensor) -> Sequence[Tensor]:
        return denoise(torch.cat(list(xs)), sigma.repeat(len(xs))).chunk(len(xs))

    return estimate
