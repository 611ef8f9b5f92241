"""Points go to the output and back, whatever orientation, fit and size do; torchvision moves boxes just so."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from pipeline.media.frame import TURNS, Frame
from pipeline.media.pixels import decode
from pipeline.media.rules import PixelRules

Floats = NDArray[np.float64]
sides = st.integers(1, 40)
fits = st.sampled_from(["resize", "crop", "pad", "centre 6"])
turns = st.sampled_from(sorted(TURNS))
far = st.floats(-50, 50)
clouds = st.lists(st.tuples(far, far), min_size=1, max_size=5).map(np.array)


def stored(width: int, height: int, orientation: int, kind: str = "PNG") -> bytes:
    """An image in which every pixel has its own colour."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_every_pixel_of_a_turned_image_is_where_its_centre_goes(orientation: int, kind: str) -> None:
    pixels, frame = decode(stored(7, 5, orientation, kind))
    assert (frame.orientation, frame.stored) == (orientation, (7, 5))
    assert frame.full == (pixels.shape[1], pixels.shape[0])
    columns, rows = np.meshgrid(np.arange(7), np.arange(5))
    centres = np.stack([columns.ravel(), rows.ravel()], 1) + 0.5
    x, y = frame.to_output(centres, upright=False).astype(int).T
    assert np.array_equal(pixels[y, x, 0], columns.ravel())
    assert np.array_equal(pixels[y, x, 1], rows.ravel())


@given(sides, sides, turns, st.none() | st.tuples(sides, sides), fits, st.booleans(), clouds)
def test_points_come_back(
    width: int, height: int, turn: int, size: tuple[int, int] | None, fit: str, restore: bool, points: Floats
) -> None:
    _, frame = decode(stored(width, height, turn), size, PixelRules(fit=fit))
    frame = frame.restored() if restore else frame
    for upright in (True, False):
        assert np.allclose(frame.to_source(frame.to_output(points, upright=upright), upright=upright), points)
        assert np.allclose(frame.to_output(frame.to_source(points, upright=upright), upright=upright), points)


@given(sides, sides, st.tuples(sides, sides), fits)
def test_the_corners_of_the_window_are_those_of_the_output(
    width: int, height: int, size: tuple[int, int], fit: str
) -> None:
    _, frame = decode(stored(width, height, 1), size, PixelRules(fit=fit))
    for each in (frame, frame.restored()):
        corners = np.array([each.window[:2], each.window[2:]], float)
        assert np.allclose(each.to_output(corners), [(0, 0), each.output])


@pytest.mark.parametrize("fit", ["resize", "crop", "pad", "centre 12"])
def test_boxes_go_where_torchvision_brings_them(fit: str) -> None:
    _, frame = decode(stored(60, 31, 1), (16, 24), PixelRules(fit=fit))
    corners = np.array([(12.0, 3.0), (48.0, 29.5)])
    boxes = BoundingBoxes(
        torch.tensor(corners.reshape(1, 4)), format=BoundingBoxFormat.XYXY, canvas_size=(31, 60), clamping_mode=None
    )
    left, top = frame.window[:2]
    cut = v2.crop(boxes, top, left, frame.seen[1], frame.seen[0])
    there = v2.resize(cut, [frame.output[1], frame.output[0]])
    assert np.allclose(frame.to_output(corners).reshape(1, 4), there)


def test_a_restored_frame_moves_nothing_that_was_seen_whole() -> None:
    _, frame = decode(stored(60, 31, 6), (16, 24), PixelRules(fit="pad"))
    assert frame.moved
    assert not frame.restored().moved
    assert not Frame.whole("L", (3, 4)).moved
