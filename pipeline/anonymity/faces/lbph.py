"""Local binary pattern histograms (Ahonen, Hadid & Pietikäinen 2004) by OpenCV-contrib: a recogniser without weights.

It looks at the texture of a face and has learned nothing, so that it shares no blind spot with a trained recogniser. It
is also a weak one, and its certificate says how weak.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SIDE, GRID, RADIUS, NEIGHBOURS = 96, 6, 3, 8
"""Side of the grey images in pixels, cells along a side, and the radius in pixels and number of points of a pattern."""
BATCH = 256
"""Faces whose histograms are counted in one call."""


class LBPH:
    """Represents a face by histograms of 59 patterns in each of 6 × 6 cells of a grey image of 96 × 96 pixels.

    An embedding is the square root of all histograms taken as one distribution. It has length 1, and the cosine
    distance of two, 1 − Σ√(pq), is one minus their Bhattacharyya coefficient, the squared Hellinger distance. There is
    no weight file: `weights` is a hash of the parameters and of OpenCV's version. Raises `UserError` where OpenCV comes
    without its contributed modules.
    """

    name = "lbph"
    threshold: float | None = None

    def __init__(self) -> None:
        self._face = _contributed()
        about = f"side {SIDE}, grid {GRID}, radius {RADIUS}, neighbours {NEIGHBOURS}, uniform, opencv {self._version()}"
        self.weights = hashlib.sha256(about.encode()).hexdigest()

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds uint8 RGB crops `[H, W, 3]` of any size as `[N, 2124]`, rows of length 1; N may be 0."""
        batches = [self._histograms(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        histograms = np.concatenate([np.empty((0, GRID**2, 2**NEIGHBOURS), np.float32), *batches])
        patterns = (histograms @ _UNIFORM).reshape(len(crops), GRID**2 * _UNIFORM.shape[1])
        return np.sqrt(patterns / np.maximum(patterns.sum(1, keepdims=True), 1e-12))

    def _histograms(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """`[N, cells, 256]`: "training" this recogniser is only counting patterns, so one call does all the crops."""
        counter = self._face.LBPHFaceRecognizer_create(RADIUS, NEIGHBOURS, GRID, GRID)
        counter.train([_grey(crop) for crop in crops], np.zeros(len(crops), np.int32))
        return np.stack(counter.getHistograms()).reshape(len(crops), GRID**2, 2**NEIGHBOURS)

    def _version(self) -> str:
        import cv2

        return str(cv2.__version__)


def _contributed() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError("recogniser lbph: OpenCV is not installed; install opencv-contrib-python-headless") from None
    if not hasattr(cv2, "face"):
        raise UserError(
            "recogniser lbph: this OpenCV has no module cv2.face; replace it by opencv-contrib-python-headless"
        )
    return cv2.face


def _grey(crop: Pixels8) -> NDArray[np.uint8]:
    """`[96, 96]`. No equalising: the patterns are the same for every rising affine change of the grey levels."""
    import cv2

    shrinking = min(crop.shape[:2]) > SIDE
    how = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    grey: Any = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=how), np.uint8)


def _uniform_patterns() -> NDArray[np.float32]:
    """`[256, 59]`: which bin a pattern counts in. 58 have at most two changes around the circle, the rest share one."""
    bits = (np.arange(2**NEIGHBOURS)[:, None] >> np.arange(NEIGHBOURS)) & 1
    uniform = (bits != np.roll(bits, 1, axis=1)).sum(1) <= 2
    bins = np.where(uniform, np.cumsum(uniform) - 1, uniform.sum())
    return np.eye(uniform.sum() + 1, dtype=np.float32)[bins]


_UNIFORM = _uniform_patterns()
