"""The recogniser Dlib on our port of its network, once it has shown that it gives what dlib gives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.faces.deepface_recognisers import BATCH, THRESHOLDS, Deepface, Pooled, Recogniser, network_input
from pipeline.anonymity.faces.dlib_net import DIMENSIONS, FILE, SIDE, DlibNet
from pipeline.anonymity.faces.weights import digest, require

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.media.records import Pixels8

NEAR = 1e-4
"""The port may differ from dlib's own embedding by at most this, entry by entry."""


class FastDlib:
    """deepface's recogniser Dlib, run by our port on batches of faces."""

    name, threshold = "Dlib", THRESHOLDS["Dlib"]
    side = SIDE

    def __init__(self, device: str = "cpu") -> None:
        file = require(FILE, owner="recogniser Dlib")
        self.weights = digest([file])
        self._net = DlibNet(file, device)

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds N crops (N may be 0) as `[N, 128]`."""
        made = [self._forward(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, DIMENSIONS), np.float32), *made])

    def features(self, pixels: Tensor) -> Tensor:
        """Embeds faces `[B, 3, 150, 150]`, RGB in [-1, 1], as `[B, 128]`; differentiable by the pixels."""
        return self._net.forward((pixels.movedim(1, -1) + 1) * 127.5)

    def _forward(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        # deepface's own way back to bytes: it truncates.
        faces = (network_input(crops, (SIDE, SIDE))[..., ::-1] * 255).astype(np.uint8)
        return self._net(faces)


class ChipDlib(FastDlib):
    """dlib's network on faces cut as dlib's own programs cut them (`Face.chip`), for which it was trained.

    With deepface's tight crops the same weights recognise far fewer people. deepface does not have this recogniser, and
    so no threshold for it.
    """

    name, threshold = "dlib-chip", None  # type: ignore[assignment]

    def _forward(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        return self._net(np.stack(crops))


def load_dlib(*, device: str, workers: int) -> Recogniser:
    """Loads the port of dlib's network.

    Where the two differ on this machine by more than `NEAR` on one crop, it loads dlib itself, with a warning.
    """
    own, fast = Deepface("Dlib"), FastDlib(device)
    crop = _crop()
    difference = float(np.abs(own.embed([crop]) - fast.embed([crop])).max())
    if difference <= NEAR:
        return fast
    warnings.warn(f"recogniser Dlib: the port on {device} is {difference:.1e} off; dlib's own is used", stacklevel=2)
    return Pooled("Dlib", workers=workers) if workers else own


def _crop() -> Pixels8:
    """uint8 `[90, 80, 3]`: shades and edges, the same everywhere."""
    y, x, channel = np.indices((90, 80, 3))
    return ((3 * x + 2 * y * (channel + 1) + 60 * (x // 20 + y // 30)) % 256).astype(np.uint8)
