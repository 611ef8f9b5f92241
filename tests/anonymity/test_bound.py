"""The bound on whoever holds the originals, against closed forms, brute force and an attacker who knows the gate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from pipeline.anonymity.bound.figures import BoundFigures, Found, SourceBound, TrainingCheck
from pipeline.anonymity.bound.gaussian import delta_of, epsilon_of, interval, one_look, told_apart
from pipeline.anonymity.bound.measuring import Originals, Round, drawn, figures, level_for
from pipeline.anonymity.bound.search import critical_levels, distances

SURE = 1 - 1e-6
"""The level of intervals that the tests hold rates against: wrong once in a million runs, and seeded besides."""


def originals(latents: torch.Tensor, groups: list[int] | None = None) -> Originals:
    alike = torch.zeros(len(latents), dtype=torch.int64) if groups is None else torch.tensor(groups)
    keys = tuple(map(str, range(len(latents))))
    return Originals(
        keys=keys, latents=latents, groups=alike, looks=torch.zeros(0, 35, dtype=torch.uint8), total=len(latents)
    )


def simplex(count: int, side: float) -> torch.Tensor:
    return side * torch.eye(count)


def holds(hits: np.ndarray, rate: float) -> bool:
    low, high = interval(int(hits.sum()), len(hits), SURE)
    return bool(low <= rate <= high)


def of_simplex(count: int, side: float, sigma: float) -> float:
    """Of orthogonal originals the likeliest is the largest coordinate: ∫ φ(u)·Φ(u + a/σ)^(N−1) du."""
    return float(quad(lambda u: norm.pdf(u) * norm.cdf(u + side / sigma) ** (count - 1), -9, 9)[0])


@pytest.mark.parametrize("sigma", [0.5, 2.0, 7.0, 50.0])
def test_of_two_originals_the_rate_is_phi_of_half_their_distance(sigma: float) -> None:
    latents = torch.randn(2, 12, generator=torch.Generator().manual_seed(3)) * 2
    distance = float((latents[0] - latents[1]).norm())
    critical, _ = drawn(originals(latents), 20_000)
    assert told_apart(distance, sigma) == pytest.approx(norm.cdf(distance / (2 * sigma)))
    assert holds(critical > sigma, told_apart(distance, sigma))


@pytest.mark.parametrize("sigma", [0.7, 1.5, 4.0])
def test_of_an_orthogonal_simplex_the_rate_is_the_integral(sigma: float) -> None:
    critical, _ = drawn(originals(simplex(30, 3.0)), 20_000)
    assert holds(critical > sigma, of_simplex(30, 3.0, sigma))


def test_a_source_is_found_below_its_critical_level_and_not_above() -> None:
    """The same noise by brute force, at several levels."""
    latents = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    sources = torch.arange(200) % 40
    critical = critical_levels(latents, torch.zeros(40, dtype=torch.int64), sources, seed=5)
    noise = torch.randn(200, 6, generator=torch.Generator().manual_seed(5)).double()
    for sigma in (0.1, 0.4, 1.0, 3.0):
        noised = latents.double()[sources] + sigma * noise
        first = torch.cdist(noised, latents.double()).argmin(1)
        assert ((first == sources).numpy() == (critical > sigma)).all()


def test_looks_add_up_as_their_log_likelihoods_do() -> None:
    """Brute force: three noised latents at levels of their own, summed log-likelihoods; and one look in closed form."""
    sigmas, generator = (2.0, 3.0, 6.0), torch.Generator().manual_seed(2)
    latents = simplex(25, 4.0)
    sources = torch.arange(20_000) % 25
    scores = sum(
        torch.cdist(latents[sources] + sigma * torch.randn(20_000, 25, generator=generator), latents) ** 2 / sigma**2
        for sigma in sigmas
    )
    assert isinstance(scores, torch.Tensor)
    assert holds((scores.argmin(1) == sources).numpy(), of_simplex(25, 4.0, one_look(sigmas)))
    assert one_look([2.0] * 4) == pytest.approx(1.0)
    assert one_look([3.0, 0.0]) == 0
    assert one_look([]) == np.inf


def test_another_group_is_no_candidate_and_a_copy_is_no_rival() -> None:
    latents = torch.randn(6, 8, generator=torch.Generator().manual_seed(4))
    apart = drawn(originals(latents, [0, 0, 1, 1, 2, 2]), 6000)[0]
    pairs = [float((latents[i] - latents[i + 1]).norm()) for i in (0, 2, 4)]
    assert holds(apart > 2.0, float(np.mean([told_apart(d, 2.0) for d in pairs])))
    alone = drawn(originals(latents, list(range(6))), 60)[0]
    assert (alone == np.inf).all()  # what is told beside the pixels tells all
    twice = drawn(originals(torch.cat([latents[:2], latents[:1]])), 6000)[0]
    assert holds(twice[0::3] > 2.0, told_apart(pairs[0], 2.0))


def test_distances_are_those_of_numpy() -> None:
    latents = torch.randn(50, 7, generator=torch.Generator().manual_seed(6)) + 100
    all_pairs = torch.cdist(latents.double(), latents.double())
    nearest, largest = distances(latents, torch.zeros(50, dtype=torch.int64))
    assert largest == pytest.approx(float(all_pairs.max()), rel=1e-3)
    assert nearest == pytest.approx((all_pairs + 1e9 * torch.eye(50)).amin(1).numpy(), rel=1e-3)


@pytest.mark.parametrize("ratio", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 4.0])
def test_delta_is_the_hockey_stick_of_two_gaussians(ratio: float, epsilon: float) -> None:
    """∫ max(0, p − e^ε·q) of N(Δ, σ²) and N(0, σ²)."""
    sigma, distance = 2.0, 2.0 * ratio
    excess = quad(
        lambda x: max(0.0, norm.pdf(x, distance, sigma) - np.exp(epsilon) * norm.pdf(x, 0, sigma)),
        -10 * sigma, distance + 10 * sigma, limit=400, points=[distance / 2 + epsilon * sigma**2 / distance],
    )[0]  # fmt: skip
    assert delta_of(epsilon, distance, sigma) == pytest.approx(excess, abs=1e-7)


@given(ratio=st.floats(1e-3, 200), delta=st.floats(1e-9, 0.1))
def test_epsilon_is_the_smallest_that_gives_delta(ratio: float, delta: float) -> None:
    epsilon = epsilon_of(ratio, 1.0, delta)
    assert delta_of(epsilon, ratio, 1.0) <= delta * (1 + 1e-6)
    assert epsilon == 0 or delta_of(epsilon * (1 - 1e-6), ratio, 1.0) >= delta * (1 - 1e-3)


@given(trials=st.integers(1, 400), data=st.data())
def test_the_interval_ends_where_its_tails_are_a_fortieth(trials: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = interval(hits, trials)
    assert low <= hits / trials <= high
    assert binom.sf(hits - 1, trials, low) == pytest.approx(0.025) if hits else low == 0
    assert binom.cdf(hits, trials, high) == pytest.approx(0.025) if hits < trials else high == 1


def test_the_level_for_a_bound_is_the_lowest_that_keeps_it() -> None:
    held = originals(simplex(60, 3.0))
    critical, _ = drawn(held, 20_000)
    sigma = level_for(critical, 0.1)
    kept = int((critical > sigma).sum())
    assert interval(kept, len(critical))[1] <= 0.1 < interval(kept + 1, len(critical))[1]
    assert of_simplex(60, 3.0, sigma) == pytest.approx(0.1, rel=0.1)
    assert of_simplex(60, 3.0, sigma) < 0.1
    with pytest.raises(ValueError, match="by chance alone"):
        level_for(critical, 1 / 80)
    with pytest.raises(ValueError, match="too few draws"):
        level_for(critical[:50], 0.01)


def test_no_attacker_who_knows_the_gate_finds_more_than_the_bound_with_gate() -> None:
    """A gate that lets through what is found and, of the rest, one in four: of what it lets through, the likeliest
    source is right far more often than of all."""
    held, sigma = originals(simplex(40, 3.0)), 1.5
    critical, _ = drawn(held, 20_000)
    coin = np.random.default_rng(0).random(len(critical)) < 0.25
    passed = (critical > sigma) | coin
    right = float((critical > sigma).sum() / passed.sum())
    released = round(40 * passed.mean())
    found = figures(held, np.full(40, sigma), [Round(sigma, released)])
    assert found.rank_1.high < 0.7 * right
    assert right <= found.with_gate * 1.02  # `released` is rounded to whole originals


def test_of_a_ladder_each_round_adds_what_it_released() -> None:
    held = originals(simplex(40, 3.0))
    once = figures(held, np.full(40, 3.0), [Round(3.0, 40)])
    assert once.with_gate == pytest.approx(once.rank_1.high, rel=1e-6)
    both = figures(held, np.full(40, one_look([3.0, 6.0])), [Round(3.0, 1), Round(6.0, 30)])
    high = interval(int((drawn(held)[0] > 6.0).sum()), 20_000, 0.975)[1]
    assert both.with_gate == pytest.approx((1 + min(40 * high, 30)) / 31)
    assert both.rank_1.share > once.rank_1.share


def test_the_most_isolated_is_worse_off_than_the_rest() -> None:
    latents = simplex(40, 3.0)
    latents[7] *= 4
    found = figures(originals(latents), np.full(40, 3.0), [Round(3.0, 40)])
    assert found.most_isolated.low > found.rank_1.high
    assert found.of_two == pytest.approx(told_apart(3 * 17**0.5, 3.0))
    assert found.chance == 1 / 40


def test_without_noise_everybody_is_found() -> None:
    found = figures(originals(simplex(5, 1.0)), np.zeros(5), [Round(0.0, 5)])
    assert (found.rank_1.share, found.with_gate, found.of_two, found.epsilon) == (1, 1, 1, None)
    said = SourceBound.of(None, found, None).said
    assert "ε = ∞" in " ".join(said)
    assert "nobody has checked" in said[-1]


def test_an_original_without_a_rival_is_the_most_isolated() -> None:
    """Such as the only grey one: it is found through any noise."""
    found = figures(originals(simplex(4, 1.0), [0, 0, 0, 1]), np.full(4, 50.0), [Round(50.0, 4)])
    assert found.most_isolated.share == 1
    assert found.rank_1.share == pytest.approx(0.5, abs=0.05)
    assert found.chance == 0.5


def test_what_is_said_names_what_it_rests_on() -> None:
    rank = Found(share=0.98, low=0.97, high=0.99)
    found = BoundFigures(
        originals=9, candidates=9, trials=10, least_noise=1.0, rank_1=rank, chance=1 / 9, with_gate=1.0,
        most_isolated=rank, of_two=1.0, epsilon=90.0, delta=1e-5, asked=None,
    )  # fmt: skip
    nothing = TrainingCheck(images=None, seen=None)
    weak = " ".join(SourceBound.of(None, found, nothing).said)
    for words in ("Nothing about T2 is provable", "98.00%", "nobody has checked", "same salt", "by itself"):
        assert words in weak
    low = found.model_copy(update={"rank_1": Found(share=0.005, low=0.004, high=0.006)})
    seen = " ".join(SourceBound.of(None, low, TrainingCheck(images=7, seen=2)).said)
    assert "A bound on every attacker" in seen
    assert "does NOT hold for 2 originals" in seen
    none = SourceBound.of("pixels stay", None, nothing)
    assert none.said == ("There is no bound on attackers who hold the source: pixels stay.",)
