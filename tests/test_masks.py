"""Mask shapes of any size, and which images are masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.masks import SHAPES, binary, mask_shape


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(name=st.sampled_from(sorted(SHAPES)), height=st.integers(4, 40), width=st.integers(4, 40), seed=st.integers(0))
def test_every_shape_changes_some_and_keeps_some(name: str, height: int, width: int, seed: int) -> None:
    mask = mask_shape(name, (height, width), generator(seed))  # type: ignore[arg-type]
    assert (mask.shape, mask.dtype) == ((height, width), bool)
    assert mask.any()
    assert not mask.all()
    assert np.array_equal(mask, mask_shape(name, (height, width), generator(seed)))  # type: ignore[arg-type]


def test_shapes_by_hand() -> None:
    """6 × 8, 1 where the image is to change."""
    drawn = {
        "half": ["00001111"] * 6,
        "lines": ["00000000", "11111111"] * 3,
        "super_resolution": ["01010101", "11111111"] * 3,
        "expand": ["11111111", "11111111", "11100111", "11100111", "11111111", "11111111"],
        "centre": ["00000000", "00111100", "00111100", "00111100", "00000000", "00000000"],
    }
    for name, rows in drawn.items():
        mask = mask_shape(name, (6, 8), generator())  # type: ignore[arg-type]
        assert ["".join(map(str, row)) for row in mask.astype(int)] == rows, name
    assert drawn.keys() == SHAPES.keys() - {"wide", "narrow"}


@pytest.mark.parametrize(("name", "low", "high"), [("wide", 0.35, 0.7), ("narrow", 0.2, 0.4)])
def test_strokes_cover_their_share_and_differ(name: str, low: float, high: float) -> None:
    masks = [mask_shape(name, (31, 43), generator(seed)) for seed in range(30)]  # type: ignore[arg-type]
    assert all(low <= mask.mean() <= high for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 30


def test_wide_strokes_are_wider() -> None:
    """Share of the changed pixels whose four neighbours change, too."""

    def inner(name: str) -> float:
        mask = mask_shape(name, (64, 80), generator(1))  # type: ignore[arg-type]
        middle = mask[1:-1, 1:-1]
        around = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        return (middle & around).sum() / middle.sum()

    assert inner("wide") > 0.7 > 0.6 > inner("narrow")


def test_what_is_no_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="'third' is not a mask shape; allowed are half, wide"):
        mask_shape("third", (8, 8), generator())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 × 8 pixels: 4 × 4 are the smallest"):
        mask_shape("half", (3, 8), generator())


@pytest.mark.parametrize("white", [1, 255])
def test_binary_images_are_masks(white: int) -> None:
    expected = mask_shape("narrow", (9, 11), generator())
    assert np.array_equal(binary(expected * np.uint8(white)), expected)
    assert not binary(np.zeros((9, 11), np.uint8)).any()
    assert binary(np.full((9, 11), white, np.uint8)).all()


@pytest.mark.parametrize("values", [(0, 128), (0, 1, 255), (1, 255), (0, 254), (7, 7)])
def test_other_images_are_not(values: tuple[int, ...]) -> None:
    image = np.resize(np.array(values, np.uint8), (4, 6))
    with pytest.raises(ValueError, match=rf"not binary: .*from {min(values)} to {max(values)}; allowed are 0"):
        binary(image)
    with pytest.raises(ValueError, match="one channel, this image has shape 4 × 6 × 3"):
        binary(np.zeros((4, 6, 3), np.uint8))
