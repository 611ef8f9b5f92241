"""Soft labels: the farther a neighbour is from its original, the less its label counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.hooks.neighbours import Neighbours
from pipeline.operators import Operator


def soft_labels(labels: Tensor, levels: Tensor, gamma: float, classes: int) -> Tensor:
    """Makes soft labels, float32 `[B, classes]`, of classes int64 `[B]` and levels s `[B]`, fractions of T in [0, 1].

    A label keeps 1 − s^γ (Diff-Mix, 2403.19600, eq. 5), and the rest is spread evenly over the other classes. At s = 0
    it is one-hot.
    """
    lost = levels.double() ** gamma
    soft = (lost / (classes - 1))[:, None].repeat(1, classes)
    return soft.scatter(1, labels[:, None], (1 - lost)[:, None]).float()


def fractions(neighbours: Neighbours, keys: Sequence[str], copy: int, device: torch.device) -> Tensor:
    """The level at which the neighbour of each key begins, as a fraction of T: float64 `[B]` in [0, 1]."""
    operator, levels = neighbours.operator, neighbours.model.levels
    uniform = KeyedNoise(neighbours.salt, keys, operator.name, copy).uniform().to(device)
    return levels.fraction(getattr(operator, operator.dial or "").draw(uniform, levels))


def check_soft(operator: Operator, gamma: float, classes: int | None) -> None:
    """Raises `UserError` where soft labels cannot be made."""
    if gamma <= 0:
        raise UserError(f"gamma is {gamma}; a number above 0 is expected, or None for labels as they are")
    if operator.dial is None:
        raise UserError(f"gamma: operator {operator.name} has no level that labels could be softened by")
    if classes is None or classes < 2:
        raise UserError(f"gamma: soft labels need classes, at least 2; found {classes}")


def check_classes(labels: Tensor, classes: int) -> None:
    """Raises `UserError` for labels outside 0 … classes − 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"gamma: a label is {low if low < 0 else high}; soft labels are made of 0 to {classes - 1}")
