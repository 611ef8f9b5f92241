"""The texture recogniser against its definition, counted by hand, and the laws of its distance."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.anonymity.faces.lbph import GRID, LBPH, RADIUS, SIDE
from pipeline.errors import UserError

CELLS = GRID**2


def smooth(seed: int, side: int = SIDE, low: int = 20, high: int = 100) -> NDArray[np.uint8]:
    """A grey random texture of any size as RGB."""
    grey = np.random.default_rng(seed).integers(low, high, (side, side), dtype=np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def patterns_by_hand(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Ahonen et al., section 2: pixel by pixel in float64, one histogram of 58 uniform patterns and a rest per cell."""
    side = SIDE - 2 * RADIUS
    codes = np.zeros((side, side), int)
    for n in range(8):
        x, y = RADIUS * np.cos(2 * np.pi * n / 8), -RADIUS * np.sin(2 * np.pi * n / 8)
        left, top = int(np.floor(x + 1e-6)), int(np.floor(y + 1e-6))
        for i in range(side):
            for j in range(side):
                value = 0.0
                for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                    weight = (1 - abs(x - column)) * (1 - abs(y - row))
                    if weight > 1e-6:
                        value += weight * grey[i + RADIUS + row, j + RADIUS + column]
                codes[i, j] |= int(value - grey[i + RADIUS, j + RADIUS] > -1e-4) << n
    uniform = [code for code in range(256) if changes(f"{code:08b}") <= 2]
    cell, made = side // GRID, []
    for row in range(GRID):
        for column in range(GRID):
            part = codes[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].ravel().tolist()
            made.append([part.count(code) for code in uniform] + [sum(code not in uniform for code in part)])
    return np.array(made, float)


def changes(ring: str) -> int:
    return sum(a != b for a, b in zip(ring, ring[1:] + ring[0], strict=True))


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return 1 - float(a.astype(np.float64) @ b)


def test_it_counts_uniform_patterns_in_cells() -> None:
    crop = smooth(0)
    counts = patterns_by_hand(crop[..., 0])
    expected = np.sqrt(counts / counts.sum()).ravel()
    found = LBPH().embed([crop])[0]
    assert found.shape == (CELLS * 59,)
    # A neighbour exactly as bright as the middle may fall to either side of OpenCV's float32 interpolation.
    assert distance(found, expected.astype(np.float32)) < 2e-3


def test_rows_have_length_one_and_a_crop_is_nearest_to_itself() -> None:
    crops = [smooth(seed) for seed in range(4)]
    embeddings = LBPH().embed(crops)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    gram = embeddings @ LBPH().embed(crops).T
    np.testing.assert_allclose(np.diag(gram), 1, atol=1e-6)
    assert (gram - 2 * np.eye(4)).max() < 0.99


def test_the_distance_is_the_squared_hellinger_distance() -> None:
    a, b = LBPH().embed([smooth(1), smooth(2)]).astype(np.float64)
    p, q = a**2, b**2
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert 1 - a @ b == pytest.approx(0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(), abs=1e-6)


def test_brightness_and_contrast_do_not_matter_but_texture_does() -> None:
    crop = smooth(3)
    brighter, stronger, other = crop + np.uint8(100), crop * np.uint8(2) + np.uint8(15), smooth(4)
    same, bright, strong, another = LBPH().embed([crop, brighter, stronger, other])
    assert distance(same, bright) < 1e-3
    assert distance(same, strong) < 1e-3
    assert distance(same, another) > 0.02


def test_a_colour_counts_as_its_grey_value() -> None:
    colours = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    grey = np.round(colours @ [0.299, 0.587, 0.114]).astype(np.uint8)
    a, b = LBPH().embed([colours, np.repeat(grey[..., None], 3, axis=2)])
    assert distance(a, b) < 1e-3


def test_a_batch_is_the_same_as_one_by_one_for_any_sizes() -> None:
    crops = [smooth(seed, side) for seed, side in enumerate((12, 31, 96, 97, 200))] + [smooth(9)[:40]]
    one_by_one = np.concatenate([LBPH().embed([crop]) for crop in crops])
    np.testing.assert_array_equal(LBPH().embed(crops), one_by_one)


def test_more_crops_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = [smooth(seed) for seed in range(5)]
    expected = LBPH().embed(crops)
    monkeypatch.setattr("pipeline.anonymity.faces.lbph.BATCH", 2)
    np.testing.assert_array_equal(LBPH().embed(crops), expected)


def test_no_crops_and_a_blank_one() -> None:
    assert LBPH().embed([]).shape == (0, CELLS * 59)
    blank = LBPH().embed([np.zeros((50, 50, 3), np.uint8)])
    assert np.linalg.norm(blank) == pytest.approx(1)


def test_weights_stand_for_the_parameters_and_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    before = LBPH().weights
    assert before == LBPH().weights
    assert len(before) == 64
    monkeypatch.setattr("pipeline.anonymity.faces.lbph.GRID", GRID + 1)
    assert LBPH().weights != before


@pytest.mark.parametrize(("module", "found"), [(None, "not installed"), (SimpleNamespace(), "no module cv2.face")])
def test_without_the_contributed_modules(monkeypatch: pytest.MonkeyPatch, module: object, found: str) -> None:
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(UserError, match=f"{found}.*opencv-contrib-python-headless"):
        LBPH()
