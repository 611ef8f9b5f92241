"""Flicker of clips, by hand and in any interleaving."""

import numpy as np
import pytest

from pipeline.report.flicker import Flicker


def frame(value: int) -> np.ndarray:
    return np.full((5, 7, 3), value, np.uint8)


def test_by_hand() -> None:
    flicker = Flicker()
    for before, after in [(10, 0), (12, 255), (8, 5)]:
        flicker.add("clip", frame(before), frame(after))
    assert flicker.pairs == 2
    assert flicker.inputs == pytest.approx((2 + 4) / 2)
    assert flicker.outputs == pytest.approx((255 + 250) / 2)  # uint8 would wrap around


def test_clips_do_not_meet() -> None:
    apart, mixed = Flicker(), Flicker()
    rng = np.random.default_rng(0)
    frames = {clip: rng.integers(0, 256, (4, 2, 5, 7, 3), dtype=np.uint8) for clip in "ab"}
    for clip in "ab":
        for before, after in frames[clip]:
            apart.add(clip, before, after)
    for i in range(4):
        for clip in "ba":
            mixed.add(clip, *frames[clip][i])
    assert (mixed.inputs, mixed.outputs) == pytest.approx((apart.inputs, apart.outputs))
    by_hand = [np.abs(np.diff(frames[clip][:, 0].astype(int), axis=0)).mean() for clip in "ab"]
    assert mixed.inputs == pytest.approx(np.mean(by_hand))


def test_without_two_frames_there_is_none() -> None:
    flicker = Flicker()
    assert flicker.inputs is None
    flicker.add("a", frame(1), frame(2))
    flicker.add("b", frame(3), frame(4))
    assert (flicker.inputs, flicker.outputs, flicker.pairs) == (None, None, 0)


def test_frames_of_another_size_are_refused() -> None:
    flicker = Flicker()
    flicker.add("a", frame(1), frame(2))
    with pytest.raises(ValueError, match=r"clip a: a frame of shape \(4, 7, 3\) follows one of \(5, 7, 3\)"):
        flicker.add("a", frame(1)[:4], frame(2)[:4])
