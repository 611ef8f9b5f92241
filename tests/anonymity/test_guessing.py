"""How likely guessing is, against the binomial distribution, simulations and the definition of Holm's procedure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pipeline.anonymity.attacks.guessing import by_guessing, holm
from pipeline.anonymity.attacks.identification import SearchResult, chance, chances, rates


@pytest.mark.parametrize("hits", [0, 1, 5, 12, 40])
@pytest.mark.parametrize("rate", [0.004, 0.1, 0.5, 1.0])
def test_of_one_query_each_it_is_the_binomial(hits: int, rate: float) -> None:
    found = np.arange(40) < hits
    expected = binom.sf(hits - 1, 40, rate)
    assert by_guessing(found, np.full(40, rate), np.arange(40)) == pytest.approx(expected, abs=1e-12)


def test_queries_of_one_person_stand_or_fall_together() -> None:
    """Ten people of ten queries each are no more than ten draws: 30 hits of 100 are three of ten."""
    people, found = np.repeat(np.arange(10), 10), np.repeat(np.arange(10) < 3, 10)
    assert by_guessing(found, np.full(100, 0.1), people) == pytest.approx(binom.sf(2, 10, 0.1), abs=1e-12)
    assert by_guessing(found, np.full(100, 0.1), np.arange(100)) < 1e-6  # were they independent


def test_people_of_several_chances_against_a_simulation() -> None:
    rng = np.random.default_rng(0)
    queries, rate = rng.integers(1, 5, 60), rng.uniform(0, 0.2, 60)
    people = np.repeat(np.arange(60), queries)
    found = np.zeros(len(people), bool)
    found[:20] = True
    drawn = (rng.random((40_000, 60)) < rate) @ queries
    p = by_guessing(found, np.repeat(rate, queries), people)
    assert p == pytest.approx(np.mean(drawn >= 20), abs=4 * np.sqrt(p / 40_000) + 1e-4)


def test_guessing_itself_is_seldom_unlikely() -> None:
    """Of searches that guess, at most a twentieth has p ≤ .05: that is what a probability says."""
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(80), 3)
    p = [by_guessing(np.repeat(rng.random(80) < 0.1, 3), np.full(240, 0.1), people) for _ in range(1000)]
    assert np.mean(np.array(p) <= 0.05) <= 0.07


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm(p: list[float]) -> None:
    corrected = holm(p)
    order = np.argsort(p, kind="stable")
    for place, i in enumerate(order):
        before = [min(1.0, (len(p) - k) * p[j]) for k, j in enumerate(order[: place + 1])]
        assert corrected[i] == pytest.approx(max(before))
    assert all(p[i] <= corrected[i] <= min(1, len(p) * p[i]) + 1e-12 or p[i] == 0 for i in range(len(p)))


def test_each_rank_states_its_chance_and_how_likely_guessing_is() -> None:
    found = SearchResult(
        rank=np.array([1, 3, 7, 50]), distance=np.zeros(4, np.float32), mates=np.array([1, 2, 1, 1]),
        candidates=np.array([100, 100, 50, 60]), person=np.arange(4),
    )  # fmt: skip
    figures = rates(found)
    assert figures is not None
    for rank in (1, 5, 10):
        one = figures.rank[str(rank)]
        expected = by_guessing(found.rank <= rank, chances(found, rank), found.person)
        assert (one.chance, one.by_guessing) == (chance(found, rank), expected)
    assert chances(found, 1) == pytest.approx([0.01, 0.02, 0.02, 1 / 60])
