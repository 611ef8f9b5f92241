"""Boxes, points and outlines go where torchvision's transforms bring them, in whatever way they are written."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, KeyPoints

from pipeline.geometry.moving import Unfollowed, area_of
from pipeline.media.frame import Frame
from tests.geometry.frames import frame, mover

FITS = ["resize", "crop", "pad", "centre 12"]
spots = st.tuples(st.floats(0, 60), st.floats(0, 31))


def through_torchvision(values: Any, where: Frame) -> Any:
    """What `v2` makes of a tv_tensor on a 60 × 31 image: cut to the window, scaled to the output."""
    left, top = where.window[:2]
    cut = v2.crop(values, top, left, where.seen[1], where.seen[0])
    return v2.resize(cut, [where.output[1], where.output[0]])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("layout", ["xyxy", "xywh", "cxcywh"])
@given(spots, spots)
def test_boxes(fit: str, layout: str, one: tuple[float, float], other: tuple[float, float]) -> None:
    where = frame(fit=fit)
    x, y = sorted((one[0], other[0])), sorted((one[1], other[1]))
    given_box = BoundingBoxes(
        torch.tensor([[x[0], y[0], x[1], y[1]]], dtype=torch.float64),
        format=BoundingBoxFormat.XYXY,
        canvas_size=(31, 60),
    )
    kind = BoundingBoxFormat[layout.upper()]
    written = v2.convert_bounding_box_format(given_box, new_format=kind)
    there = v2.clamp_bounding_boxes(through_torchvision(written, where))
    moved = mover(where, format=layout).box(written[0].tolist())
    if moved is None:
        left, top, right, bottom = v2.convert_bounding_box_format(there, new_format=BoundingBoxFormat.XYXY)[0].tolist()
        assert min(right - left, bottom - top) <= 1e-9
    else:
        assert np.allclose(moved, there[0].tolist(), atol=1e-5)


@pytest.mark.parametrize("fit", FITS)
def test_points(fit: str) -> None:
    where, points = frame(fit=fit), [[30.0, 15.0], [12.5, 3.0], [59.0, 31.0]]
    there = through_torchvision(KeyPoints(torch.tensor(points), canvas_size=(31, 60)), where)
    moved = mover(where).points(points)
    inside = [0 <= x <= where.output[0] and 0 <= y <= where.output[1] for x, y in moved]
    assert np.allclose([m for m, here in zip(moved, inside, strict=True) if here], there[inside], atol=1e-5)
    assert inside[0]
    assert inside.count(False) == (0 if fit in ("resize", "pad") else 1 if fit == "crop" else 2)  # kept, outside


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fractions_are_the_same_place_as_pixels(fit: str, orientation: int) -> None:
    for upright in (True, False):
        where = frame(fit=fit, orientation=orientation)
        wide, high = where.full if upright else where.stored
        box = [0.3 * wide, 0.3 * high, 0.7 * wide, 0.8 * high]
        pixels = mover(where, format="xyxy", upright=upright).box(box)
        ratio = mover(where, format="normalised xyxy", upright=upright).box([0.3, 0.3, 0.7, 0.8])
        yolo = mover(where, format="normalised", upright=upright).box([0.5, 0.55, 0.4, 0.5])
        assert pixels is not None and ratio is not None and yolo is not None  # noqa: PT018
        x, y = where.output
        assert np.allclose(np.multiply(ratio, [x, y, x, y]), pixels, atol=1e-4)
        assert np.allclose([(ratio[0] + ratio[2]) / 2, ratio[3] - ratio[1]], [yolo[0], yolo[3]], atol=1e-5)


def test_whole_numbers_stay_whole_and_no_box_vanishes_by_rounding() -> None:
    small = mover(frame(600, 310, "resize"), format="xywh")
    assert small.box([100, 100, 3, 3]) == [4, 5, 1, 1]
    assert small.box([597, 307, 3, 3]) == [23, 15, 1, 1]
    assert all(type(n) is int for n in small.box([10, 10, 100, 100]) or [])
    assert small.box([100.0, 100, 300, 3]) == pytest.approx([4, 5.161, 12, 0.155], abs=1e-3)
    assert small.points([100, 100, 2]) == [4, 5, 2]


def test_what_is_outside_is_cut_lost_or_refused() -> None:
    crop = mover(frame(60, 30, "crop"), format="xyxy")  # sees x from 7 or 8 to 52
    assert crop.box([0, 0, 5, 30]) is None
    clipped = crop.box([0.0, 0, 30, 30])
    assert clipped is not None and clipped[0] == 0  # noqa: PT018
    assert crop.points([[1, 1, 2], [30, 15, 1], [0, 0, 0]])[0] == [0, 0, 0]
    assert crop.points([1.0, 1, 2, 30, 15, 1]) == [0, 0, 0, *crop.points([30.0, 15, 1])]
    assert crop.outlines([0, 0, 5, 0, 5, 9]) is None
    assert crop.outlines([[0, 0, 5, 0, 5, 9], [20, 5, 30, 5, 30, 9]]) == [crop.outlines([20, 5, 30, 5, 30, 9])]
    strict = mover(frame(60, 30, "crop"), format="xyxy", leaving="drop")
    assert strict.box([20, 5, 30, 9]) == crop.box([20, 5, 30, 9])
    assert strict.points([0, 0, 0]) == [0, 0, 0]
    for leave in (
        lambda: strict.box([0, 0, 30, 30]),
        lambda: strict.points([1, 1, 2]),
        lambda: strict.points([1, 1]),
        lambda: strict.outlines([0, 0, 30, 0, 30, 9]),
    ):
        with pytest.raises(Unfollowed, match="leaving is drop"):
            leave()


@given(st.lists(spots, min_size=3, max_size=6))
def test_outlines_are_cut_as_their_pixels_are(corners: list[tuple[float, float]]) -> None:
    """Convex outlines: their area in the window is that of the window's pixels within them, about."""
    where = frame(60, 31, "centre 12")
    mean = np.mean(corners, 0)
    ring = sorted(corners, key=lambda p: np.arctan2(p[1] - mean[1], p[0] - mean[0]))
    moved = mover(where).outlines([float(n) for point in ring for n in point])
    fine = Image.new("L", (60 * 20, 31 * 20))
    ImageDraw.Draw(fine).polygon([(20 * x, 20 * y) for x, y in ring], fill=1)
    seen = np.asarray(fine.crop([20 * side for side in where.window])).mean() * np.prod(where.output)
    area = 0.0 if moved is None else area_of(np.reshape(moved, (-1, 2)))
    assert area == pytest.approx(seen, abs=0.02 * np.prod(where.output) + 1)


@pytest.mark.parametrize("value", [None, 3, "x", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, float("nan")],
                                   [10**400, 1, 2, 3], [[1, 2, 3, 4]], {"x": 1}])  # fmt: skip
def test_what_is_no_box(value: Any) -> None:
    with pytest.raises(Unfollowed, match="4 numbers up to"):
        mover(frame(), format="xyxy").box(value)


def test_a_box_in_another_format_is_noticed() -> None:
    with pytest.raises(Unfollowed, match="ends before it begins"):
        mover(frame(), format="xyxy").box([50, 20, 5, 5])
