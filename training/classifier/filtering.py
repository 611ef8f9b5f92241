"""Which neighbours to train on: those on which a baseline classifier, trained on originals, still sees the label.

The confidence filters of ALIA (2305.16289) and SaSPA (2406.14551), as pure functions of two tables of logits.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.errors import UserError
from pipeline.section import Section


class FilterConfig(Section):
    """`threshold`: confidence in the label on the neighbour is `at` or more; `margin`: it fell by `at` or less."""

    kind: Literal["threshold", "margin"]
    at: float = Field(ge=0, le=1)
    mode: Literal["drop", "weight"] = "drop"
    """What becomes of a neighbour that fails: none of it counts, or less the further it is off the bar."""


def weights(config: FilterConfig, before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
    """How much each neighbour counts: float32 `[N]` in [0, 1].

    `before` and `after`: logits `[N, K]` of the original and its neighbour; `labels` int64 `[N]`. What is kept of the
    confidence, the neighbour's own or 1 − its fall, is compared with the bar; `weight` takes their ratio, which falls
    from 1 at the bar to 0. Raises `UserError` for labels that the classifier does not know.
    """
    kept, bar = confidence(after, labels), config.at
    if config.kind == "margin":
        kept, bar = 1 - (confidence(before, labels) - kept), 1 - config.at
    if config.mode == "drop":
        return (kept >= bar).float()
    return (kept / bar).clamp(max=1).float() if bar else torch.ones_like(kept).float()


def rejected_share(weights: Tensor) -> float:
    """The share of all weight that a filter took away, in [0, 1]: of dropped neighbours, where it drops them."""
    return 1 - weights.double().mean().item() if len(weights) else 0.0


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Probability of the label: float64 `[N]`. Raises `UserError` as `check_labels`."""
    check_labels(labels, logits.shape[1])
    return logits.double().softmax(1).gather(1, labels[:, None])[:, 0]


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises `UserError` for labels that the classifier does not know."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(f"a label is {int(wrong[0])}; the classifier knows 0 to {classes - 1}")
