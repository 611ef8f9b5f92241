import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from training.data.subsets import draw_subset


@given(st.integers(3, 30), st.integers(0, 3))
def test_every_class_gets_its_share(size: int, seed: int) -> None:
    labels = torch.arange(60) % 3
    rows = draw_subset(labels, size, 3, seed)
    counts = labels[rows].bincount(minlength=3)
    assert len(rows.unique()) == size
    assert int(counts.max() - counts.min()) <= 1


def test_a_seed_decides_the_rows_and_all_means_all() -> None:
    labels = torch.arange(60) % 3
    assert torch.equal(draw_subset(labels, 12, 3, 1), draw_subset(labels, 12, 3, 1))
    assert not torch.equal(draw_subset(labels, 12, 3, 1), draw_subset(labels, 12, 3, 2))
    assert sorted(draw_subset(labels, None, 3, 1).tolist()) == list(range(60))


@pytest.mark.parametrize("size", [None, 10])
def test_a_missing_class_is_named(size: int | None) -> None:
    with pytest.raises(UserError, match=r"class 2 is missing from a subset of \d+: it has 0 images"):
        draw_subset(torch.arange(60) % 2, size, 3, 0)


def test_more_than_there_are() -> None:
    with pytest.raises(UserError, match="61 images are asked for, and the training set has 60"):
        draw_subset(torch.arange(60) % 3, 61, 3, 0)


def test_fewer_than_classes() -> None:
    with pytest.raises(UserError, match="class 2 is missing from a subset of 2"):
        draw_subset(torch.arange(60) % 3, 2, 3, 0)
