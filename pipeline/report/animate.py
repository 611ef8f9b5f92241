"""Animations of tiles that slide, turn and flip to their places in a new picture, as the provenance says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.diffusion.tiles.regions import Ints, from_details, origins, outlines
from pipeline.errors import UserError
from pipeline.media.provenance import Details

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

Points = NDArray[np.float64]
"""`[n, 2]`, (y, x) in pixels."""
BACKGROUND = 40
"""Grey level of the background, 0 to 255."""
ENLARGED = 256
"""Small pictures are enlarged to about this side, without smoothing."""


def reassemble(details: Details, sources: Sequence[Pixels8], image: str | None = None) -> Pixels8:
    """Makes a picture again, bit for bit, from the provenance of its row and the source pictures, uint8 `[H, W, 3]`."""
    tiles, assembly = from_details(details, image or next(iter(details["made"])))
    pixels = np.concatenate([source.reshape(-1, 3) for source in sources])
    return pixels[origins(tiles, assembly)[0]].reshape(sources[0].shape)


def animate(
    details: Details,
    sources: Sequence[Pixels8],
    path: str | Path,
    *,
    image: str | None = None,
    zoom: int | None = None,
    seconds: float = 2.0,
    fps: int = 20,
) -> None:
    """Writes `path` (.gif or .mp4): first the sources beside one another, then the tiles on their way, then `image`.

    `details` are those of one row; `sources` are uint8 `[H, W, 3]`, in the order of `details["sources"]`; `image` is
    one of `details["made"]`, the first by default. `zoom` enlarges each pixel, and the tiles move for `seconds` at
    `fps` frames a second. Raises `UserError` for another ending, or MP4 without OpenCV.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise UserError(f"{path}: animations end in .gif or .mp4")
    zoom = zoom or max(1, ENLARGED // max(sources[0].shape[:2]))
    moving = frames(details, sources, image or next(iter(details["made"])), zoom, round(seconds * fps))
    hold = max(1, round(0.8 * fps))
    if path.suffix.lower() == ".gif":
        pictures = [Image.fromarray(frame) for frame in moving]
        steps = [1000 // fps] * len(pictures)
        steps[0] = steps[-1] = hold * 1000 // fps
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=steps, loop=0)
    else:
        write_mp4([moving[0]] * hold + moving + [moving[-1]] * hold, path, fps)


def frames(details: Details, sources: Sequence[Pixels8], image: str, zoom: int, count: int) -> list[Pixels8]:
    """The `count` frames of the animation, uint8 `[H·zoom, S·W·zoom, 3]` for S sources."""
    height, width = sources[0].shape[:2]
    tiles, assembly = from_details(details, image)
    origin = origins(tiles, assembly)[0]
    pool = np.concatenate([source.reshape(-1, 3) for source in sources])
    order = np.concatenate([group.pixels.ravel() for group in tiles])  # whole tiles pass over one another
    unused = np.setdiff1d(np.arange(len(pool)), origin)
    centre = np.array([0, (len(sources) - 1) * width / 2])
    start, end = places(origin, height, width), places(np.arange(height * width), height, width) + centre
    if details["tiles"].get("shape") == "rings":
        move = rolling(start, end, origin, (height, width))
    else:
        move = turning(start, end, [group.pixels for group in tiles])
    shape = (height * zoom, len(sources) * width * zoom, 3)
    made = []
    for t in np.linspace(0, 1, count):
        eased = t * t * (3 - 2 * t)
        canvas = np.full(shape, BACKGROUND, np.uint8)
        faded = BACKGROUND + (1 - eased) * (pool[unused] - float(BACKGROUND))
        draw(canvas, places(unused, height, width), faded, zoom, 0)
        draw(canvas, move(eased)[order], pool[origin][order], zoom, 0 if t in (0, 1) else 1)
        made.append(canvas)
    return made


def places(pixels: Ints, height: int, width: int) -> Points:
    """The points of pixel numbers, with the pictures side by side."""
    picture, pixel = np.divmod(pixels, height * width)
    return np.stack([pixel // width, pixel % width + picture * width], -1).astype(float)


def turning(start: Points, end: Points, tiles: Sequence[Ints]) -> Any:
    """Moves tiles in straight lines while they turn around their centres; mirrored ones flip over like a card.

    Returns a function from time in [0, 1] to the points of all pixels.
    """
    pixels = np.concatenate(tiles)
    a, b = start[pixels], end[pixels]
    from_, to = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    a, b = a - from_, b - to
    dot, cross = (a * b).sum((1, 2)), (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(1)
    rigid = np.hypot(dot, cross) > 0.999 * (a * a).sum((1, 2))
    angle = np.where(rigid, np.arctan2(cross, dot), 0)[:, None]

    def move(t: float) -> Points:
        c, s = np.cos(angle * t), np.sin(angle * t)
        turned = np.stack([c * a[..., 0] - s * a[..., 1], s * a[..., 0] + c * a[..., 1]], -1)
        inside = np.where(rigid[:, None, None], turned, a + t * (b - a))
        at = np.empty_like(start)
        at[pixels] = from_ + t * (to - from_) + inside
        return at

    return move


def rolling(start: Points, end: Points, origin: Ints, size: tuple[int, int]) -> Any:
    """Rolls rings along their own lines, from picture to picture on the way; mirrored ones cross the middle.

    Returns a function from time in [0, 1] to the points of all pixels.
    """
    area = size[0] * size[1]
    rolls = []
    for line in outlines(size):
        index = np.empty(area, dtype=np.int64)
        index[line] = np.arange(len(line))
        rolled = (index[origin[line] % area] - np.arange(len(line))) % len(line)
        if (rolled == rolled[0]).all():
            rolls.append((line, (rolled[0] + len(line) // 2) % len(line) - len(line) // 2))

    def move(t: float) -> Points:
        at = start + t * (end - start)
        for line, roll in rolls:
            along = np.arange(len(line)) + roll * (1 - t)
            loop = places(np.append(line, line[0]), *size)
            ring = np.stack([np.interp(along % len(line), np.arange(len(loop)), side) for side in loop.T], -1)
            aside = (1 - t) * np.outer(origin[line] // area, [0, size[1]])
            at[line] = ring + aside + t * (end[line] - places(line, *size))
        return at

    return move


def draw(canvas: Pixels8, points: Points, colours: NDArray[Any], zoom: int, bleed: int) -> None:
    """Draws each pixel as a square, larger by `bleed` on all sides, because turned ones would leave gaps.

    Pixels that are drawn later lie on top.
    """
    side = np.arange(-bleed, zoom + bleed)
    y, x = (np.round(points[:, axis] * zoom).astype(np.int64)[:, None, None] for axis in (0, 1))
    y, x = np.broadcast_arrays(y + side[:, None], x + side)
    inside = (y >= 0) & (y < canvas.shape[0]) & (x >= 0) & (x < canvas.shape[1])
    canvas[y[inside], x[inside]] = np.broadcast_to(colours.astype(np.uint8)[:, None, None], (*y.shape, 3))[inside]


def write_mp4(pictures: Sequence[Pixels8], path: Path, fps: int) -> None:
    """Writes the pictures as an MP4. Raises `UserError` without OpenCV, or where it cannot write MP4."""
    try:
        import cv2
    except ImportError:
        raise UserError(f"{path}: MP4 needs OpenCV (pip install opencv-python-headless); GIF does not") from None
    height, width = (side + side % 2 for side in pictures[0].shape[:2])  # the codec wants even sides
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise UserError(f"{path}: OpenCV cannot write MP4 here; GIF works")
    for picture in pictures:
        even = np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), mode="edge")
        writer.write(even[:, :, ::-1])
    writer.release()
