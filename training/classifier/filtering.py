"""Choosing neighbours to train on: those in which a baseline classifier, trained on originals, still sees the label.

These are the confidence filters of ALIA (2305.16289) and SaSPA (2406.14551), as pure functions of two tables of logits.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.errors import UserError
from pipeline.section import Section


class FilterConfig(Section):
    """A bar that the classifier's confidence in a neighbour's label must reach."""

    kind: Literal["threshold", "margin"]
    """With `threshold`, the confidence must be at least `at`; with `margin`, it may be at most `at` lower than in the
    original."""
    at: float = Field(ge=0, le=1)
    """A probability, or a difference of two, in [0, 1]."""
    mode: Literal["drop", "weight"] = "drop"
    """What becomes of a neighbour that fails: with `drop` it does not count, with `weight` it counts less the farther
    it is below the bar."""


def weights(config: FilterConfig, before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    """How much each neighbour counts: float32 `[N]` in [0, 1].

    `before` and `after` are logits `[N, K]` of original and neighbour; `labels` are int64 `[N]`. The confidence that is
    kept is the neighbour's own, or 1 − its fall. It is compared with the bar, and `weight` takes their ratio, which
    goes from 1 at the bar down to 0. Raises `UserError` for labels that the classifier does not know.
    """
    kept, bar = confidence(after, labels), config.at
    if config.kind == "margin":
        kept, bar = 1 - (confidence(before, labels) - kept), 1 - config.at
    if config.mode == "drop":
        return (kept >= bar).float()
    return (kept / bar).clamp(max=1).float() if bar else torch.ones_like(kept).float()


def rejected_share(weights: Tensor) -> float:
    """The fraction of all weight that a filter took away, in [0, 1]; for `drop`, the fraction of neighbours."""
    return 1 - weights.double().mean().item() if len(weights) else 0.0


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """The probability of each label, float64 `[N]` in [0, 1]. Raises `UserError` as `check_labels` does."""
    check_labels(labels, logits.shape[1])
    return logits.double().softmax(1).gather(1, labels[:, None])[:, 0]


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises `UserError` for labels that the classifier does not know."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(f"a label is {int(wrong[0])}; the classifier knows 0 to {classes - 1}")
