"""The filter of paired edits, on vectors whose cosines are known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.operators.edit_scores import EditScores, Thresholds, edit_scores, passes


def at(*degrees: float) -> Tensor:
    """Unit vectors in a plane."""
    turned = torch.tensor(degrees).deg2rad()
    return torch.stack([turned.cos(), turned.sin()], dim=-1)


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def four(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [normalize(torch.randn(count, 11, generator=generator, dtype=torch.float64), dim=-1) for _ in range(4)]


def test_in_a_plane_all_scores_are_cosines_of_known_angles() -> None:
    scores = edit_scores(at(0, 10), at(60, 50), at(20, 90), at(30, 200))
    for found, expected in (
        (scores.before, [20, 80]),
        (scores.after, [30, 150]),
        # a chord from α to β points to (α + β)/2 + 90°
        (scores.direction, [30 - 25, 145 - 30]),
        (scores.images, [60, 40]),
    ):
        assert torch.allclose(found, torch.tensor([cosine(d) for d in expected]), atol=1e-6)


def test_scores_do_not_change_when_the_whole_space_is_turned() -> None:
    vectors = four(7)
    turn = torch.linalg.qr(torch.randn(11, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    plain, turned = edit_scores(*vectors), edit_scores(*(v @ turn for v in vectors))
    for name in ("before", "after", "direction", "images"):
        assert torch.allclose(getattr(plain, name), getattr(turned, name))
        assert getattr(plain, name).shape == (7,)


def test_direction_turns_round_with_either_edit_and_not_with_both() -> None:
    before, after, caption, edited = four(7)
    forth = edit_scores(before, after, caption, edited).direction
    assert torch.allclose(edit_scores(after, before, caption, edited).direction, -forth)
    assert torch.allclose(edit_scores(after, before, edited, caption).direction, forth)


def test_each_row_stands_for_itself() -> None:
    vectors = four(5)
    together = edit_scores(*vectors)
    for i in range(5):
        alone = edit_scores(*(v[i : i + 1] for v in vectors))
        for name in ("before", "after", "direction", "images"):
            assert torch.allclose(getattr(alone, name), getattr(together, name)[i : i + 1])


@pytest.mark.parametrize("noise", [0, 1e-8])
def test_where_nothing_changes_there_is_no_direction(noise: float) -> None:
    before, after, caption, edited = four(3)
    still_image = edit_scores(before, before + noise, caption, edited).direction
    still_text = edit_scores(before, after, caption, caption + noise).direction
    assert still_image.tolist() == still_text.tolist() == [0, 0, 0]


def test_a_small_change_has_a_direction_all_the_same() -> None:
    before, after, caption, edited = at(0, 0), at(0.01, 0.01), at(0, 0), at(0.01, -0.01)
    found = edit_scores(before.double(), after.double(), caption.double(), edited.double()).direction
    assert torch.allclose(found, torch.tensor([1.0, -1.0], dtype=torch.float64), atol=1e-3)


def scores(**values: float) -> EditScores:
    good = {"before": 0.2, "after": 0.2, "direction": 0.2, "images": 0.7}
    return EditScores(**{name: torch.tensor([v, 1.0], dtype=torch.float64) for name, v in (good | values).items()})


def test_the_papers_thresholds_are_just_enough() -> None:
    assert passes(scores(), Thresholds()).tolist() == [True, True]


@pytest.mark.parametrize("name", ["before", "after", "direction", "images"])
def test_every_score_counts(name: str) -> None:
    for value in (0.19, math.nan, -1):
        assert passes(scores(**{name: value}), Thresholds()).tolist() == [False, True]
    assert passes(scores(**{name: 0.1}), Thresholds(**{name: 0.1})).tolist() == [True, True]


def test_thresholds_are_cosines_and_stay_as_they_are() -> None:
    with pytest.raises(ValidationError):
        Thresholds(images=1.1)
    with pytest.raises(ValidationError):
        Thresholds(image=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Thresholds().images = 0.5  # type: ignore[misc]
