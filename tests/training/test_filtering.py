"""The confidence filter against the definition, written a second time in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import softmax

from pipeline.errors import UserError
from training.classifier.filtering import FilterConfig, rejected_share, weights

KINDS = st.sampled_from(["threshold", "margin"])
BARS = st.floats(0, 1)


def table(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits before and after `[13, 5]`, and labels."""
    rng = torch.Generator().manual_seed(seed)
    before, after = (3 * torch.randn(13, 5, generator=rng) for _ in range(2))
    return before, after, torch.randint(5, (13,), generator=rng)


def shortfall(config: FilterConfig, before: torch.Tensor, after: torch.Tensor, labels: torch.Tensor) -> Any:
    """How far each row is below the bar."""
    rows = np.arange(len(labels))
    p, q = (softmax(logits.numpy().astype(np.float64), 1)[rows, labels.numpy()] for logits in (before, after))
    return config.at - q if config.kind == "threshold" else p - q - config.at


@given(kind=KINDS, at=BARS, seed=st.integers(0, 99))
def test_what_is_dropped_is_below_the_bar(kind: Any, at: float, seed: int) -> None:
    config = FilterConfig(kind=kind, at=at)
    missed, kept = shortfall(config, *table(seed)), weights(config, *table(seed)).numpy()
    clear = np.abs(missed) > 1e-9
    assert np.array_equal(kept[clear], (missed < 0)[clear].astype(np.float32))
    assert rejected_share(torch.from_numpy(kept)) == pytest.approx((kept == 0).mean())


@given(kind=KINDS, at=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_a_weight_is_full_at_the_bar_and_falls_in_proportion_to_nothing(kind: Any, at: float, seed: int) -> None:
    config = FilterConfig(kind=kind, at=at, mode="weight")
    missed, weight = shortfall(config, *table(seed)), weights(config, *table(seed)).numpy()
    most = at if kind == "threshold" else 1 - at
    assert weight == pytest.approx(1 - np.clip(missed, 0, None) / most, abs=1e-5)


@pytest.mark.parametrize("mode", ["drop", "weight"])
def test_the_ends_of_the_bar(mode: Any) -> None:
    before, after, labels = table(0)
    for open_to_all in (FilterConfig(kind="threshold", at=0, mode=mode), FilterConfig(kind="margin", at=1, mode=mode)):
        assert weights(open_to_all, before, after, labels).tolist() == [1.0] * 13
    nothing_fell = weights(FilterConfig(kind="margin", at=0, mode=mode), before, before, labels)
    assert rejected_share(nothing_fell) == 0
    assert rejected_share(nothing_fell[:0]) == 0


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_that_the_classifier_does_not_know(label: int) -> None:
    before, after, labels = table(0)
    labels[3] = label
    with pytest.raises(UserError, match=f"a label is {label}; the classifier knows 0 to 4"):
        weights(FilterConfig(kind="threshold", at=0.5), before, after, labels)


@pytest.mark.parametrize("content", [{"at": 1.2}, {"at": -0.1}, {"kind": "ratio"}, {"mod": "drop"}])
def test_what_no_filter_is(content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FilterConfig.model_validate({"kind": "margin", "at": 0.5, **content})
