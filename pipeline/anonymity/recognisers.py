"""Recognisers by name: deepface's, in batches, and two of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.anonymity.backend import build
from pipeline.anonymity.pool import Pool
from pipeline.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.anonymity.faces import Face
    from pipeline.records import Pixels8

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
        self._pool = Pool("recogniser", name, workers=workers)
        self.weights = self._pool.weights

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        return np.array(self._pool.map(crops), np.float32).reshape(len(crops), self._pool.dimensions)


def network_input(crops: Sequence[Pixels8], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Crops uint8 RGB → float32 BGR `[N, h, w, 3]` in [0, 1], as `representation.represent` makes them."""
    from deepface.modules.preprocessing import resize_image

    def one(crop: Pixels8) -> Any:
        scaled = crop / 255 if crop.max() > 1 else crop
        return resize_image(scaled[:, :, ::-1], target_size=(shape[1], shape[0]))

    return np.concatenate([one(crop) for crop in crops])


def _dlib(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.fast_dlib import load_dlib

    return load_dlib(device=device, workers=workers)


def _chip(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.fast_dlib import ChipDlib

    return ChipDlib(device)


def _lbph(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.lbph import LBPH

    return LBPH()


def _small(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.embedder import SmallEmbedder

    return SmallEmbedder.load(device=device)


OWN: dict[str, Callable[[str, int], Recogniser]] = {
    "Dlib": _dlib, "dlib-chip": _chip, "lbph": _lbph, "small": _small,
}  # fmt: skip
"""What runs on code of ours; all else of `THRESHOLDS` on deepface's."""


def load_recogniser(name: str, *, device: str = "cpu", workers: int = 2) -> Recogniser:
    """The recogniser of that name; `device` and `workers` (processes; 0: none) are for those that have a use for them.

    Raises `UserError` for an unknown one, and where weights or a package are missing.
    """
    if name in OWN:
        return OWN[name](device, workers)
    if name not in THRESHOLDS:
        raise UserError(f"recogniser is {name!r}; known are {', '.join(dict.fromkeys([*THRESHOLDS, *OWN]))}")
    return Pooled(name, workers=workers) if name in ONE_AT_A_TIME and workers else Deepface(name)


def crops_for(name: str, faces: Sequence[Face]) -> list[Pixels8]:
    """What a recogniser is to see of each face. Raises `UserError` where the detector does not give it."""
    if name != "dlib-chip":
        return [face.crop for face in faces]
    chips = [face.chip for face in faces if face.chip is not None]
    if len(chips) < len(faces):
        raise UserError("recogniser dlib-chip needs the landmarks of detector dlib; another detector was named")
    return chips


def unit(embeddings: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of `[N, D]` to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths == 0, 1, lengths), np.float32)
