"""Animations: first the sources, last the picture, and tiles that move as one on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.diffusion.tiles.regions import Assembly, Cut, to_details
from pipeline.errors import UserError
from pipeline.report.animate import BACKGROUND, animate, frames, places, reassemble, rolling, turning

H, W = 6, 10


def pictures(count: int = 1) -> list[Any]:
    return [np.random.default_rng(seed).integers(100, 256, (H, W, 3), dtype=np.uint8) for seed in range(count)]


def details_of(cut: Any, tile: list[int], turn: list[int] | None = None, size: tuple[int, int] = (H, W)) -> Any:
    made = Assembly(np.array([tile]), np.array([turn or [0] * len(tile)]))
    (details,) = to_details(Cut.model_validate(cut), size, ["input"], {"output": made})
    return details


CASES: list[Any] = [
    pytest.param({"count": 2}, [3, 0, 0, 1], None, 1, id="blocks, one twice"),
    pytest.param({"count": 2, "flips": True}, [2, 3, 1, 0], [0, 1, 2, 3], 1, id="flips"),
    pytest.param({"count": 2}, [7, 0, 6, 1], None, 2, id="two sources"),
    pytest.param("rings", [0, 1, 2], [5, 2, 3], 1, id="rings"),
    pytest.param(
        {"shape": "rings", "count": 1, "flips": True}, [1], [31], 2, id="a mirrored ring of the second source"
    ),
    pytest.param({"shape": "irregular", "count": 2}, [1, 0, 3, 2], None, 1, id="irregular"),
]


@pytest.mark.parametrize(("cut", "tile", "turn", "count"), CASES)
def test_frames_begin_with_the_sources_and_end_with_the_picture(
    cut: Any, tile: list[int], turn: list[int] | None, count: int
) -> None:
    details, sources, zoom = details_of(cut, tile, turn), pictures(count), 4
    made = frames(details, sources, "output", zoom, 5)
    assert {frame.shape for frame in made} == {(H * zoom, W * zoom * count, 3)}
    assert (made[0][::zoom, ::zoom] == np.concatenate(sources, 1)).all()
    aside = (count - 1) * W // 2
    last = made[-1][::zoom, ::zoom]
    assert (last[:, aside : aside + W] == reassemble(details, sources)).all()
    assert (np.delete(last, np.s_[aside : aside + W], 1) == BACKGROUND).all()
    assert (made[2] != made[0]).any()
    assert (made[2] != made[-1]).any()


def test_a_tile_slides_in_a_straight_line_and_turns_around_its_centre() -> None:
    """A 3×3 tile goes from the top left to the bottom right, by a quarter turn: halfway it lies at 45°."""
    (group,) = Cut(count=2, turns=True)((6, 6))
    g = next(k for k, s in enumerate(group.symmetries) if s.reshape(3, 3).tolist() == [[6, 3, 0], [7, 4, 1], [8, 5, 2]])
    origin = np.arange(36)
    origin[group.pixels[3]] = group.pixels[0][group.symmetries[g]]
    move = turning(places(origin, 6, 6), places(np.arange(36), 6, 6), [group.pixels])
    half = move(0.5)[group.pixels[3]]
    np.testing.assert_allclose(half.mean(0), [2.5, 2.5])
    np.testing.assert_allclose(half[4], [2.5, 2.5])
    np.testing.assert_allclose(np.hypot(*(half[0] - half[4])), 2**0.5)  # its corner is as far away as ever,
    assert sorted(np.round(np.abs(half[0] - half[4]), 6)) == pytest.approx([0, 2**0.5], abs=1e-5)  # straight beside
    np.testing.assert_allclose(move(0), places(origin, 6, 6), atol=1e-9)
    np.testing.assert_allclose(move(1), places(np.arange(36), 6, 6), atol=1e-9)


def test_a_ring_rolls_along_itself_the_shorter_way() -> None:
    line = np.array([0, 1, 2, 3, 7, 11, 15, 14, 13, 12, 8, 4])
    for roll, halfway in ((2, np.roll(line, -1)), (10, np.roll(line, 1))):
        origin = np.arange(16)
        origin[line] = np.roll(line, -roll)
        start, end = places(origin, 4, 4), places(np.arange(16), 4, 4)
        np.testing.assert_allclose(rolling(start, end, origin, (4, 4))(0.5)[line], places(halfway, 4, 4))


@pytest.mark.parametrize("name", ["morph.gif", "morph.mp4", "MORPH.GIF"])
def test_files(tmp_path: Path, name: str) -> None:
    details, sources = details_of({"count": 2}, [3, 2, 0, 1]), pictures()
    animate(details, sources, tmp_path / name, zoom=3, seconds=0.5, fps=10)
    if name.endswith("mp4"):
        import cv2

        film = cv2.VideoCapture(str(tmp_path / name))
        assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 5 + 2 * 8
        _, first = film.read()
        expected = sources[0].repeat(3, 0).repeat(3, 1).astype(float).mean((0, 1))
        np.testing.assert_allclose(first[:, :, ::-1].mean((0, 1)), expected, atol=12)
        return
    with Image.open(tmp_path / name) as film:
        assert (film.n_frames, film.size) == (5, (3 * W, 3 * H))
        held = film.info["duration"]
        assert (np.abs(np.array(film.convert("RGB"))[::3, ::3].astype(int) - sources[0]) < 40).all()
        film.seek(2)
        assert film.info["duration"] < held
        film.seek(4)
        assert film.info["duration"] == held


def test_small_pictures_are_enlarged(tmp_path: Path) -> None:
    details = details_of({"count": 2}, [3, 2, 0, 1], size=(28, 28))
    animate(details, [np.zeros((28, 28, 3), np.uint8)], tmp_path / "a.gif", seconds=0.2)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.size == (252, 252)


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"morph.webm: animations end in .gif or .mp4"):
        animate(details_of({"count": 2}, [0, 1, 2, 3]), pictures(), tmp_path / "morph.webm")
