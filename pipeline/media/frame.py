"""Where an image lies in the file that it came from and in the file that is written, and how points go both ways."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

Size = tuple[int, int]
"""Width and height in pixels."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""
TURNS = {
    1: (False, False, False), 2: (False, True, False), 3: (False, True, True), 4: (False, False, True),
    5: (True, False, False), 6: (True, True, False), 7: (True, True, True), 8: (True, False, True),
}  # fmt: skip
"""What makes a stored image upright, by its EXIF orientation: whether x and y are exchanged, then whether the image is
mirrored left to right, and top to bottom."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What became of the geometry of an image, so that whatever lies in it can follow, and go back.

    Points are in pixels, x to the right and y down, with (0, 0) at the outer corner of the first pixel, so that the
    image spans 0 to its width.
    """

    mode: Literal["L", "RGB"]
    """Whether the source is grey (L) or in colour."""
    orientation: int = 1
    """EXIF orientation of the source, 1 to 8; 1 is upright. The output is upright."""
    full: Size
    """Size of the upright source."""
    window: Box
    """The part of the upright source that is seen."""
    box: Box
    """The place of that part in what the model sees, which may have margins."""
    output: Size
    """Size of the output, which shows that part and nothing else."""

    @classmethod
    def whole(cls, mode: Literal["L", "RGB"], size: Size) -> Frame:
        """The frame of an image that stays as it is."""
        return cls(mode=mode, full=size, window=(0, 0, *size), box=(0, 0, *size), output=size)

    def restored(self) -> Frame:
        """The frame of an output with the source's resolution."""
        return replace(self, output=self.seen)

    @property
    def seen(self) -> Size:
        """Size of the part that is seen, in the source."""
        left, top, right, bottom = self.window
        return right - left, bottom - top

    @property
    def stored(self) -> Size:
        """Size of the source as it lies in its file."""
        return self.full[::-1] if TURNS[self.orientation][0] else self.full

    @property
    def moved(self) -> bool:
        """Whether upright points are elsewhere in the output."""
        return (self.window, self.output) != ((0, 0, *self.full), self.full)

    def to_output(self, points: Points, *, upright: bool = True) -> Points:
        """Where points of the source, float `[N, 2]`, lie in the output.

        They are those of the upright source or, without `upright`, of the source as it lies in its file.
        """
        import numpy as np

        swap, mirror, flip = TURNS[1 if upright else self.orientation]
        points = points[:, ::-1] if swap else points
        points = np.where((mirror, flip), self.full - points, points)
        return np.asarray((points - self.window[:2]) * self.scale)

    def to_source(self, points: Points, *, upright: bool = True) -> Points:
        """Where points of the output, float `[N, 2]`, lie in the source: the inverse of `to_output`."""
        import numpy as np

        swap, mirror, flip = TURNS[1 if upright else self.orientation]
        points = points / self.scale + self.window[:2]
        points = np.where((mirror, flip), self.full - points, points)
        return points[:, ::-1] if swap else points

    @property
    def scale(self) -> NDArray[np.float64]:
        """How much larger the output is than the part that is seen, in x and in y."""
        import numpy as np

        return np.divide(self.output, self.seen)
