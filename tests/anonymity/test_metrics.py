"""Metrics against closed forms of Gaussians, brute force over every threshold, and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from pipeline.anonymity.faces.metrics import bootstrap_people, eer, linkability, roc, tar_at_far, threshold_at_far

GRID = st.integers(0, 12).map(lambda n: n / 8)
SCORES = st.lists(GRID, min_size=1, max_size=25).map(lambda values: np.array(values, np.float32))
"""Few values, so that there are ties."""


def gaussians(d: float, count: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    """Genuine distances N(0, 1), impostors N(d, 1)."""
    rng = np.random.default_rng(7)
    return rng.standard_normal(count), rng.standard_normal(count * 2) + d


@given(SCORES, SCORES)
def test_every_point_of_the_roc_is_a_count(genuine: np.ndarray, impostor: np.ndarray) -> None:
    curve = roc(genuine, impostor)
    assert (curve.far[0], curve.tar[0]) == (0, 0)
    assert (curve.far[-1], curve.tar[-1]) == (1, 1)
    assert set(curve.threshold[1:].tolist()) == {*genuine.tolist(), *impostor.tolist()}
    for far, tar, threshold in zip(curve.far, curve.tar, curve.threshold, strict=True):
        assert far == sum(distance <= threshold for distance in impostor) / len(impostor)
        assert tar == sum(distance <= threshold for distance in genuine) / len(genuine)


@given(SCORES, st.fractions(0, 1).filter(lambda far: float(far) < 1))
def test_the_threshold_is_the_largest_that_keeps_the_far(impostor: np.ndarray, far: object) -> None:
    rate = float(far)  # type: ignore[arg-type]
    threshold = np.float32(threshold_at_far(impostor, rate))
    assert np.mean(impostor <= threshold) <= rate
    assert np.mean(impostor <= np.nextafter(threshold, np.float32(np.inf))) > rate


@pytest.mark.parametrize(("accepted", "count"), [(29, 100), (7, 100), (1, 1000), (57, 100), (3, 10)])
def test_a_rate_that_is_a_whole_number_of_pairs_accepts_them_all(accepted: int, count: int) -> None:
    """.29 × 100 is 28.999…"""
    impostor = np.arange(1, count + 1, dtype=np.float64)
    assert (impostor <= threshold_at_far(impostor, accepted / count)).sum() == accepted


def test_the_tar_of_gaussians() -> None:
    genuine, impostor = gaussians(2.5)
    for far in (1e-1, 1e-2, 1e-3):
        assert tar_at_far(genuine, impostor, far) == pytest.approx(norm.cdf(norm.ppf(far) + 2.5), abs=0.02)


@pytest.mark.parametrize("d", [0.0, 1.0, 3.0])
def test_the_eer_of_gaussians(d: float) -> None:
    assert eer(*gaussians(d)) == pytest.approx(norm.cdf(-d / 2), abs=4e-3)


def test_the_eer_of_what_never_and_of_what_always_meets() -> None:
    near, far = np.array([0.1, 0.2]), np.array([0.5, 0.9, 0.7])
    assert eer(near, far) == 0
    assert eer(far, near) == 1
    assert eer(np.ones(4), np.ones(9)) == 0.5


@given(SCORES, SCORES)
def test_the_eer_lies_on_both_sides_alike(genuine: np.ndarray, impostor: np.ndarray) -> None:
    """Distances turned into likenesses exchange the roles of the two groups."""
    assert eer(genuine, impostor) == pytest.approx(eer(-impostor, -genuine), abs=1e-9)


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [np.inf]])
def test_what_is_no_distance_is_refused(values: list[float]) -> None:
    good, bad = np.array([0.1, 0.4]), np.array(values)
    for measure in (roc, eer, linkability):
        for both in ((good, bad), (bad, good)):
            with pytest.raises(ValueError, match="finite distances"):
                measure(*both)
    with pytest.raises(ValueError, match="allowed is 0"):
        threshold_at_far(good, 1.5)


def d_sys(d: float, omega: float = 1.0) -> float:
    """The integral of Gomez-Barrero et al. for N(0, 1) and N(d, 1), on a fine grid."""
    s = np.linspace(-9, 9 + d, 200_001)
    mated, nonmated = norm.pdf(s), norm.pdf(s - d)
    ratio = omega * mated / np.maximum(nonmated, 1e-300)
    local = np.where(ratio > 1, 2 * ratio / (1 + ratio) - 1, 0)
    return float(np.sum(mated * local) * (s[1] - s[0]))


@pytest.mark.parametrize(("d", "omega"), [(0.5, 1.0), (1.5, 1.0), (3.0, 1.0), (1.5, 0.2), (1.5, 5.0)])
def test_linkability_of_gaussians(d: float, omega: float) -> None:
    assert linkability(*gaussians(d), omega=omega) == pytest.approx(d_sys(d, omega), abs=0.015)


def test_linkability_at_its_ends() -> None:
    rng = np.random.default_rng(1)
    assert linkability(rng.random(500), rng.random(900) + 2) == 1
    assert linkability(rng.random(500) + 2, rng.random(900)) == 1  # the far side of a scale links as well
    assert linkability(np.ones(50), np.ones(70)) == 0
    assert linkability(rng.random(50_000), rng.random(50_000)) < 0.03


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Values of one person are equal: an interval that drew them one by one would hold it in half of the trials."""
    rng = np.random.default_rng(5)
    people = np.repeat(np.arange(40), 10)
    held = 0
    for trial in range(200):
        values = np.repeat(rng.standard_normal(40), 10)
        low, high = bootstrap_people(values, people, rounds=300, seed=trial)
        held += low <= 0 <= high
    assert 0.87 <= held / 200 <= 0.99


def test_the_interval_weighs_people_by_their_values() -> None:
    values, people = np.array([1.0, 1, 1, 1, 0]), np.array(["a", "a", "a", "a", "b"])
    low, high = bootstrap_people(values, people, rounds=4000)
    assert (low, high) == (0, 1)  # only b, with probability 1/4; only a, the same
    many = np.arange(400) % 10 > 0  # half of 80 people have nine values of 0 each, the others one of 1
    low, high = bootstrap_people(~many, np.where(many, np.arange(400) // 10, 100 + np.arange(400) // 10))
    assert low < 0.1 < high < 0.2
    assert bootstrap_people(values, people, seed=1) == bootstrap_people(values, people, seed=1)


@settings(max_examples=25)
@given(st.permutations(range(12)), st.integers(1, 9))
def test_the_interval_knows_no_order_and_scales(order: list[int], factor: int) -> None:
    values, people = np.arange(12) % 5 / 4, np.arange(12) % 4
    low, high = bootstrap_people(values, people)
    shuffled = bootstrap_people(values[order], people[order])
    assert shuffled == pytest.approx((low, high))
    assert bootstrap_people(values * factor, people) == pytest.approx((low * factor, high * factor))


def test_one_person_gives_no_interval() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        bootstrap_people([0.0, 1.0], ["a", "a"])
