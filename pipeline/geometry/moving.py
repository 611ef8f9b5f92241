"""Boxes, points and outlines as they are written, moved to where they lie in the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.geometry.config import GeometryConfig
from pipeline.geometry.masks import moved_pixels
from pipeline.geometry.rle import read_rle, write_rle
from pipeline.media.frame import Frame, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.media.frame import Points

DEEPEST = 5
"""Lists in lists that points may lie in."""


LARGEST_FRACTION = 2.0
"""What is larger is no fraction, but pixels."""
LOST = "a box or outline lies outside of the window, and is left out"
"""What people are told of it."""
FARTHEST = 1e12
"""The largest number that can be a place or an area."""


class Unfollowed(Exception):
    """Raised where something cannot follow its image; the message says why."""


@dataclass(frozen=True)
class Mover:
    """Moves what lies in one image, as a recipe says it is written."""

    config: GeometryConfig
    frame: Frame
    tell: Callable[[str], None] = lambda text: None
    """Is told what people should know, in a sentence without names."""

    @property
    def source(self) -> Size:
        """Width and height of the image that places are stated in."""
        return self.frame.full if self.config.upright else self.frame.stored

    @property
    def moves(self) -> bool:
        """Whether anything is elsewhere in the output."""
        return self.frame.moved or (self.frame.orientation != 1 and not self.config.upright)

    def box(self, value: Any) -> list[float] | None:
        """A box of four numbers; None where nothing of it is left."""
        first, second = numbers(value, 4).reshape(2, 2)
        layout = self.config.format or "xyxy"
        if layout.endswith("xyxy"):
            low, high = first, second
        elif layout == "xywh":
            low, high = first, first + second
        else:
            low, high = first - second / 2, first + second / 2
        moved = self.corners(self.in_pixels(np.stack([low, high])), whole=self.whole(value))
        if moved is None:
            return None
        low, high = self.as_written(moved)
        if layout == "xywh":
            low, high = low, high - low
        elif not layout.endswith("xyxy"):
            low, high = (low + high) / 2, high - low
        return self.listed([*low, *high], whole=self.whole(value))

    def corners(self, corners: Points, *, whole: bool = False) -> Points | None:
        """The low and high corner of a box, `[2, 2]` in pixels; None where nothing of it is left.

        A `whole` box lies on whole pixels, and is one pixel wide at least.
        """
        if (corners[1] < corners[0]).any():
            raise Unfollowed("a box ends before it begins; geometry.format may be another one")
        moved = self.moved(corners)
        moved = np.stack([moved.min(0), moved.max(0)])
        clipped = self.inside(moved)
        if ((clipped[1] <= clipped[0]) & (moved[1] > moved[0])).any() or ((moved[1] < 0) | (moved[0] > self.end)).any():
            return None
        if whole:
            low = np.minimum(clipped[0].round(), self.end - 1)
            clipped = np.stack([low, np.maximum(clipped[1].round(), low + 1)])
        return clipped

    def points(self, value: Any, depth: int = 0) -> Any:
        """Points, in lists of any depth."""
        if is_nested(value) and depth < DEEPEST:
            return [self.points(part, depth + 1) for part in value]
        flat = numbers(value)
        parts = 2 if len(flat) == 2 else 3
        if len(flat) % parts:
            raise Unfollowed(f"keypoints are [x, y], or have 3 numbers each: x, y and visibility; found {len(flat)}")
        rows = flat.reshape(-1, parts)
        moved = self.moved(self.in_pixels(rows[:, :2]))
        if parts == 2:
            self.inside(moved)  # which may be asked to refuse
            return self.listed(self.as_written(moved).ravel(), whole=self.whole(value))
        none = (rows == 0).all(1)
        none |= (self.inside(np.where(none[:, None], 0, moved)) != moved).any(1) & (rows[:, 2] > 0)
        places = np.where(none[:, None], 0, self.as_written(moved))
        whole, result = self.whole([x for i, x in enumerate(value) if i % 3 < 2]), list[float]()
        for i, point in enumerate(places):
            result += [*self.listed(point, whole=whole), 0 if none[i] else value[3 * i + 2]]
        return result

    def outlines(self, value: Any) -> Any:
        """One outline, a list of them, or a COCO mask in RLE; None where nothing is left."""
        if isinstance(value, dict):
            return self.rle(value)
        if value == []:
            return value
        if is_nested(value) and not all(is_pair(part) for part in value):
            left = [moved for part in value if (moved := self.outlines(part)) is not None]
            return left or None
        pairs = is_nested(value)
        flat = [number for pair in value for number in pair] if pairs else value
        points = numbers(flat)
        if len(points) < 6 or len(points) % 2:
            raise Unfollowed(f"an outline has 3 points or more, and 2 numbers for each; found {len(points)} numbers")
        ring = self.ring(self.in_pixels(points.reshape(-1, 2)))
        if not len(ring):
            return None
        rows = [self.listed(point, whole=self.whole(flat)) for point in self.as_written(ring)]
        return rows if pairs else [number for row in rows for number in row]

    def ring(self, points: Points) -> Points:
        """An outline `[N, 2]` in pixels, cut at the borders one after the other (Sutherland and Hodgman); perhaps
        empty."""
        ring = self.moved(points)
        if (self.inside(ring) == ring).all():
            return ring
        for axis in (0, 1):
            for sign, border in ((1, 0), (-1, self.end[axis])):
                depth = sign * (ring[:, axis] - border)
                kept = list[Any]()
                for a, b, here, there in zip(ring, np.roll(ring, -1, 0), depth, np.roll(depth, -1), strict=True):
                    kept += [a] if here >= 0 else []
                    kept += [a + (b - a) * here / (here - there)] if here * there < 0 else []
                ring = np.array(kept).reshape(-1, 2)
        return ring if area_of(ring) > 0 else ring[:0]

    def rle(self, value: dict[str, Any]) -> dict[str, Any] | None:
        """A mask in COCO's run lengths; None where nothing of it is left."""
        try:
            mask = read_rle(value, self.source)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise Unfollowed(f"a mask in RLE cannot be read ({error})") from None
        moved = moved_pixels(mask, self.frame, upright=self.config.upright)
        return write_rle(moved, like=value) if moved.any() else None

    def area(self, value: Any, before: float, after: float) -> float:
        """An area whose box or outline had the area `before`, and has the area `after` now."""
        (number,) = numbers([value])
        new = number * (after / before if before > 0 else self.frame.scale.prod())
        return self.listed([new], whole=self.whole([value]))[0]

    def extent(self, value: Any, size: Size) -> float:
        """The area of a box, of outlines, or of a mask in RLE, in pixels of an image of `size`."""
        if isinstance(value, dict):
            return float(read_rle(value, size).sum())
        if is_nested(value) and not all(is_pair(part) for part in value):
            return sum(self.extent(part, size) for part in value)
        flat = numbers([number for pair in value for number in pair] if is_nested(value) else value)
        if len(flat) == 4:
            wide, high = flat[2:] - flat[:2] if (self.config.format or "").endswith("xyxy") else flat[2:]
            area = float(wide * high)
        else:
            area = area_of(flat.reshape(-1, 2))
        return area * size[0] * size[1] if self.fractions else area

    @property
    def end(self) -> NDArray[np.float64]:
        """Width and height of the output."""
        return np.array(self.frame.output, float)

    def moved(self, points: Points) -> Points:
        """Points in pixels of the source, in pixels of the output."""
        return self.frame.to_output(points, upright=self.config.upright)

    def inside(self, points: Points) -> Points:
        """The points, with those outside of the output drawn to its border.

        Raises `Unfollowed` for a point that leaves it, where the recipe drops such samples.
        """
        inside = points.clip(0, self.end)
        if self.config.leaving == "drop" and (np.abs(inside - points) > 0.5).any():
            raise Unfollowed("something leaves the window, and geometry.leaving is drop")
        return inside

    @property
    def fractions(self) -> bool:
        """Whether places are fractions of width and height."""
        return (self.config.format or "").startswith("normalised")

    def in_pixels(self, points: Points) -> Points:
        """Points as they are written, in pixels of the source."""
        if self.fractions and (np.abs(points) > LARGEST_FRACTION).any():
            raise Unfollowed(
                f"a fraction of width or height is {np.abs(points).max():g}, far from 0 to 1; geometry.format may be "
                "another one"
            )
        return points * self.source if self.fractions else points

    def as_written(self, points: Points) -> Points:
        """Points in pixels of the output, as they are written."""
        return points / self.frame.output if self.fractions else points

    def whole(self, value: Sequence[Any]) -> bool:
        """Whether numbers are whole pixels, and stay so, because a column may hold nothing else."""
        return not self.fractions and all(isinstance(number, int) for number in value)

    def listed(self, values: Sequence[float] | Points, *, whole: bool) -> list[float]:
        """Numbers for JSON."""
        return [round(float(v)) if whole else round(float(v), 6) + 0.0 for v in values]


def numbers(value: Any, count: int | None = None) -> NDArray[np.float64]:
    """The numbers of a list, float `[N]`. Raises `Unfollowed` for anything else."""
    plain = isinstance(value, list) and all(type(part) in (int, float) for part in value)
    try:
        array = np.array(value if plain else [np.nan], float)
    except OverflowError:
        array = np.array([np.inf])
    if not (np.abs(array) <= FARTHEST).all() or count not in (None, len(array)):
        raise Unfollowed(f"a list of {'' if count is None else f'{count} '}numbers up to {FARTHEST:.0e} is expected")
    return array


def is_nested(value: Any) -> bool:
    """Whether a value is a list of lists or objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(part, list | dict) for part in value)


def is_pair(value: Any) -> bool:
    """Whether a value is a point of two numbers."""
    return isinstance(value, list) and len(value) == 2 and not is_nested(value)


def area_of(ring: Points) -> float:
    """The area within an outline `[N, 2]`, by the shoelace formula."""
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
