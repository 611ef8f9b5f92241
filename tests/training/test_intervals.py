import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from training.compare.intervals import holm, paired

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_interval_and_p_are_those_of_the_paired_t_test(n: int) -> None:
    rng = np.random.default_rng(n)
    one, other = rng.normal(0.85, 0.01, n), rng.normal(0.84, 0.01, n)
    reference = ttest_rel(one, other)
    low, high = reference.confidence_interval(0.95)
    found = paired((one - other).tolist())
    assert (found.mean, found.low, found.high) == pytest.approx(((one - other).mean(), low, high))
    assert found.p == pytest.approx(reference.pvalue)
    assert found.n == n


def test_by_hand() -> None:
    found = paired([0.01, 0.02, 0.03])  # standard error .01/√3, t(2) = 4.302653
    assert (found.low, found.high) == pytest.approx((0.02 - 4.302653 * 0.01 / 3**0.5, 0.02 + 4.302653 * 0.01 / 3**0.5))


def test_one_seed_has_no_interval() -> None:
    found = paired([0.02])
    assert (found.mean, found.n) == (0.02, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.p)


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.1, 0.0), (-0.1, 0.0)])
def test_differences_all_alike(value: float, p: float) -> None:
    found = paired([value] * 3)
    assert (found.low, found.high) == pytest.approx((value, value))
    assert found.p == p


@pytest.mark.parametrize("differences", [[], [0.1, math.nan], [math.inf]])
def test_failed_pairs_are_the_callers(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        paired(differences)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    draws = np.random.default_rng(0).normal(0.3, 1, (1000, 5))
    held = [found.low <= 0.3 <= found.high for found in map(paired, draws.tolist())]
    assert 0.93 < np.mean(held) < 0.97


def test_holm_by_hand() -> None:
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1 gives .02, .03, .06, .04; none may fall below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_counts_only_tests() -> None:
    one, nothing, two = holm([0.02, math.nan, 0.03])
    assert (one, two) == pytest.approx((0.04, 0.04))
    assert math.isnan(nothing)
    assert holm([]) == []


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_holm_wants_probabilities(p: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.5, p])


@given(P_VALUES)
def test_holm_laws(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, more in zip(p_values, adjusted, strict=True):
        assert p <= more <= min(1, len(p_values) * p)  # never gentler than none, never harsher than Bonferroni
    ranked = [more for _, more in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_given(p_values: list[float], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(p_values)))
    random.shuffle(order)
    adjusted = holm(p_values)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]
