"""Exact search against brute force in float64, at tile edges, with ties, and in flat memory."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.faces import gallery
from pipeline.anonymity.faces.gallery import count_within, distances, nearest


def vectors(count: int, dimensions: int = 7, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute(queries: np.ndarray, entries: np.ndarray) -> np.ndarray:
    return 1 - queries.astype(np.float64) @ entries.astype(np.float64).T


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """11 rows × 37 columns in groups of 5: whole groups, a rest, several tiles."""
    for name, value in {"ROWS": 11, "COLUMNS": 37, "GROUP": 5}.items():
        monkeypatch.setattr(gallery, name, value)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("size", [1, 4, 5, 36, 37, 38, 74, 113])
@pytest.mark.parametrize("k", [1, 3, 13])
def test_the_nearest_are_those_of_brute_force(size: int, k: int) -> None:
    queries, entries = vectors(23, seed=1), vectors(size, seed=2)
    found, rows = nearest(queries, entries, k)
    expected = brute(queries, entries)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    there = min(k, size)
    assert (found.shape, rows.shape) == ((23, k), (23, k))
    assert (found.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows[:, :there], order)
    np.testing.assert_allclose(found[:, :there], np.take_along_axis(expected, order, 1), atol=1e-6)
    assert np.isinf(found[:, there:]).all()
    assert (rows[:, there:] == -1).all()


def test_tiles_of_the_shipped_size_agree_too() -> None:
    queries, entries = vectors(3, seed=3), vectors(gallery.COLUMNS + gallery.GROUP + 9, seed=4)
    expected = np.argsort(brute(queries, entries), axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(nearest(queries, entries, 6)[1], expected)


AXES = np.vstack([np.eye(4), -np.eye(4)]).astype(np.float32)
"""Their products are exactly −1, 0 and 1: ties everywhere."""


@given(st.lists(st.integers(0, 7), min_size=1, max_size=90), st.integers(1, 12))
def test_of_equal_distances_the_lowest_row_comes_first(picks: list[int], k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ROWS": 3, "COLUMNS": 13, "GROUP": 4}.items():
            patch.setattr(gallery, name, value)
        entries = AXES[picks]
        found, rows = nearest(AXES, entries, k)
    expected = brute(AXES, entries)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(rows[:, : len(picks)], order)
    np.testing.assert_array_equal(found[:, : len(picks)], np.take_along_axis(expected, order, 1))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.4, 1.0, 2.0])
def test_counts_are_those_of_brute_force(threshold: float) -> None:
    queries, entries = vectors(23, seed=1), np.vstack([vectors(113, seed=2), vectors(5, seed=1)])
    expected = np.maximum(brute(queries, entries), 0)
    clear = np.abs(expected - threshold) > 1e-6
    low, high = ((expected <= threshold) & clear).sum(1), ((expected <= threshold) | ~clear).sum(1)
    counts = count_within(queries, entries, threshold)
    assert counts.dtype == np.int64
    assert ((low <= counts) & (counts <= high)).all()


def test_a_distance_on_the_threshold_counts_as_within_it() -> None:
    queries, entries = vectors(9, seed=5), vectors(40, seed=6)
    found = nearest(queries, entries, 40)[0]
    for rank in (0, 17, 39):
        for query in range(9):
            counts = count_within(queries, entries, float(found[query, rank]))
            assert counts[query] == (found[query] <= found[query, rank]).sum() >= rank + 1


@pytest.mark.usefixtures("small_tiles")
def test_all_distances_are_those_of_brute_force_and_never_negative() -> None:
    queries, entries = vectors(23, seed=1), vectors(80, seed=1)
    found = distances(queries, entries)
    assert found.min() >= 0
    np.testing.assert_allclose(found, brute(queries, entries), atol=1e-6)


def test_nothing_is_near_in_an_empty_gallery() -> None:
    found, rows = nearest(vectors(2), np.zeros((0, 7), np.float32), 3)
    assert np.isinf(found).all()
    assert (rows == -1).all()
    assert count_within(vectors(2), np.zeros((0, 7), np.float32), 2.0).tolist() == [0, 0]


def test_no_queries_have_no_neighbours() -> None:
    found, rows = nearest(np.zeros((0, 7), np.float32), vectors(4), 2)
    assert found.shape == rows.shape == (0, 2)
    assert count_within(np.zeros((0, 7), np.float32), vectors(4), 1.0).shape == (0,)


@pytest.mark.parametrize("search", [lambda q, g: nearest(q, g, 1), lambda q, g: count_within(q, g, 0.5), distances])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0])
def test_what_is_no_unit_vector_is_refused(search: object, side: int, value: float) -> None:
    """A NaN would be near nobody, and so read as anonymous."""
    both = [vectors(4), vectors(5)]
    both[side][2] = value
    with pytest.raises(ValueError, match="of length 1"):
        search(*both)  # type: ignore[operator]


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        nearest(vectors(2), vectors(2), 0)
    with pytest.raises(ValueError, match="7 dimensions, the gallery has 5"):
        nearest(vectors(2), vectors(2, 5), 1)
    with pytest.raises(ValueError, match="float64"):
        nearest(vectors(2).astype(np.float64), vectors(2), 1)


PEAK = """
import resource, numpy as np
from pipeline.anonymity.faces.gallery import nearest, count_within
rows = np.random.default_rng(0).standard_normal((40_000, 16), dtype=np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
nearest(rows[:64], rows[:64], 5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest(rows[:3000], rows, 5), count_within(rows[:3000], rows, .5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_flat() -> None:
    """The whole product would take 480 MB, a tile takes 34 MB."""
    result = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 150_000  # kB
