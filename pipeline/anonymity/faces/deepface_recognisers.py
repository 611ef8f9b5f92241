"""What a recogniser is, and deepface's own: in this process, or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.anonymity.faces.backend import build
from pipeline.anonymity.faces.processes import ModelProcesses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.media.records import Pixels8


THRESHOLDS: dict[str, float] = {
    "VGG-Face": 0.68, "Facenet": 0.40, "Facenet512": 0.30, "ArcFace": 0.68, "Dlib": 0.07, "SFace": 0.593,
    "OpenFace": 0.10, "DeepFace": 0.23, "DeepID": 0.015, "GhostFaceNet": 0.65, "Buffalo_L": 0.55,
}  # fmt: skip
"""deepface's recognisers, each with deepface's own threshold of the cosine distance (version 0.0.103)."""


ONE_AT_A_TIME = ("SFace", "Buffalo_L")
"""The recognisers that deepface runs on one face at a time, even when given a batch."""


BATCH = 64
"""Faces in one call of a network."""


class Recogniser(Protocol):
    """Turns faces into vectors whose cosine distance says how alike the faces are; `name` is that in recipes."""

    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str:
        """sha256, in hexadecimal, of its weight files."""
        ...

    @property
    def threshold(self) -> float | None:
        """deepface's threshold of the cosine distance; None where deepface has none for it."""
        ...

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds N crops (N may be 0), each as in `Face.crop`, as `[N, D]`; rows need not have length 1."""
        ...


class Deepface:
    """One of deepface's recognisers, run in this process."""

    def __init__(self, name: str) -> None:
        self.name, self.threshold = name, THRESHOLDS[name]
        self._model, self.weights = build("facial_recognition", name)
        self.dimensions: int = self._model.output_shape

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds N crops (N may be 0) as `[N, D]`, just as deepface's `represent` does."""
        made = [self._forward(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, self.dimensions), np.float32), *made])

    def _forward(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        inputs = network_input(crops, self._model.input_shape)
        # One face comes back without the batch.
        return np.asarray(self._model.forward(inputs), np.float32).reshape(len(crops), -1)


class Pooled:
    """One of deepface's recognisers, run in `workers` processes."""

    def __init__(self, name: str, *, workers: int) -> None:
        self.name, self.threshold = name, THRESHOLDS[name]
        self._pool = ModelProcesses("recogniser", name, workers=workers)
        self.weights = self._pool.weights

    @property
    def ended(self) -> bool:
        """Whether its processes are gone, as after one of them has failed."""
        return self._pool.ended

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds N crops (N may be 0) as `[N, D]`. Raises `UserError` where a process fails or dies."""
        return np.array(self._pool.map(crops), np.float32).reshape(len(crops), self._pool.dimensions)


def network_input(crops: Sequence[Pixels8], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resizes uint8 RGB crops to float32 BGR `[N, h, w, 3]` in [0, 1], as deepface's `represent` does."""
    from deepface.modules.preprocessing import resize_image

    def one(crop: Pixels8) -> Any:
        scaled = crop / 255 if crop.max() > 1 else crop
        return resize_image(scaled[:, :, ::-1], target_size=(shape[1], shape[0]))

    return np.concatenate([one(crop) for crop in crops])


def unit(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Scales the rows of `[N, D]` to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths == 0, 1, lengths), np.float32)
