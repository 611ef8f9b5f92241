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
"""deepface's recognisers and its thresholds of the cosine distance (0.0.103)."""


ONE_AT_A_TIME = ("SFace", "Buffalo_L")
"""What deepface embeds one face at a time, batch or not."""


BATCH = 64


class Recogniser(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str:
        """sha256 of its weight files."""
        ...

    @property
    def threshold(self) -> float | None:
        """deepface's, of the cosine distance; None where it has none."""
        ...

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Crops as `Face.crop`, N of them (N may be 0) → `[N, D]`, as deepface's `represent` gives them."""
        ...


class Deepface:
    """A recogniser of deepface's in this process."""

    def __init__(self, name: str) -> None:
        self.name, self.threshold = name, THRESHOLDS[name]
        self._model, self.weights = build("facial_recognition", name)
        self.dimensions: int = self._model.output_shape

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        made = [self._forward(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, self.dimensions), np.float32), *made])

    def _forward(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        inputs = network_input(crops, self._model.input_shape)
        # One face comes back without the batch.
        return np.asarray(self._model.forward(inputs), np.float32).reshape(len(crops), -1)


class Pooled:
    """A recogniser of deepface's in `workers` processes."""

    def __init__(self, name: str, *, workers: int) -> None:
        self.name, self.threshold = name, THRESHOLDS[name]
        self._pool = ModelProcesses("recogniser", name, workers=workers)
        self.weights = self._pool.weights

    @property
    def ended(self) -> bool:
        """Its processes are gone: one of them failed."""
        return self._pool.ended

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        return np.array(self._pool.map(crops), np.float32).reshape(len(crops), self._pool.dimensions)


def network_input(crops: Sequence[Pixels8], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Crops uint8 RGB → float32 BGR `[N, h, w, 3]` in [0, 1], as `representation.represent` makes them."""
    from deepface.modules.preprocessing import resize_image

    def one(crop: Pixels8) -> Any:
        scaled = crop / 255 if crop.max() > 1 else crop
        return resize_image(scaled[:, :, ::-1], target_size=(shape[1], shape[0]))

    return np.concatenate([one(crop) for crop in crops])


def unit(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of `[N, D]` to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths == 0, 1, lengths), np.float32)
