"""A detector and a recogniser that can be reasoned about: a face is a bright square, its person the hue inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from pipeline.anonymity.faces.detect import TRANSFORM, Face
from pipeline.anonymity.faces.table import FaceTable, tabulate
from pipeline.anonymity.gate.calibration import Certificate
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge

Pixels8 = NDArray[np.uint8]

BACKGROUND = 40
"""Faces are what is brighter."""


class FakeFinder:
    detector, weights = "fake", "fake-weights"

    def find(self, images: Sequence[Pixels8]) -> list[list[Face]]:
        return [self._of(image) for image in images]

    def suspects(self, images: Sequence[Pixels8], smallest: Sequence[float]) -> list[bool]:
        return [True] * len(images)

    def _of(self, image: Pixels8) -> list[Face]:
        places, _ = label(image.max(-1) > 2 * BACKGROUND)
        faces = []
        for rows, columns in find_objects(places):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            box = (columns.start, rows.start, width, height)
            crop = np.ascontiguousarray(image[rows, columns])
            faces.append(Face(box=box, eyes=None, confidence=1.0, crop=crop))
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


class FakeRecogniser:
    """A person is the mean colour of the crop."""

    weights, threshold = "fake-weights", 0.05

    def __init__(self, name: str = "fake", *, raises_at: int | None = None) -> None:
        self.name, self.raises_at, self.calls = name, raises_at, 0

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        self.calls += 1
        if self.raises_at == self.calls:
            raise RuntimeError("the recogniser broke")
        means = [crop.reshape(-1, 3).mean(0) for crop in crops]
        return np.array(means, dtype=np.float32).reshape(-1, 3)


def certificate(**changes: object) -> Certificate:
    facts = {
        "recogniser": "fake", "weights": "fake-weights", "detector": "fake", "detector_weights": "fake-weights",
        "size": (32, 32), "transform": TRANSFORM, "data": "fakes", "people": 9, "images": 90, "faces_found": 1.0,
        "genuine": 100, "impostor": 1000, "tar": {"1e-2": 0.99, "1e-3": 0.95, "1e-4": 0.9},
        "thresholds": {"1e-2": 0.06, "1e-3": 0.03, "1e-4": 0.02}, "eer": 0.01, "deepface_threshold": 0.05,
        "deepface_tar": 0.98, "deepface_far": 0.02, "closest_impostor": 0.01, "floor": 0.8,
        "roc": [(0.0, 0.5, 0.009), (0.02, 0.98, 0.05), (1.0, 1.0, 2.0)],
    }  # fmt: skip
    return Certificate.model_validate(facts | changes)


def picture(*faces: tuple[tuple[int, int, int], int, int], side: int = 12, size: int = 32, seed: int = 0) -> Pixels8:
    """A dark image with bright squares: (colour, left, top)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, BACKGROUND, (size, size, 3)).astype(np.uint8)
    for colour, left, top in faces:
        image[top : top + side, left : left + side] = colour
    return image


def originals(images: dict[str, Pixels8], people: dict[str, str] | None = None, **recogniser: object) -> FaceTable:
    who = [people.get(key) if people else None for key in images]
    return tabulate(list(images.values()), list(images), who, FakeFinder(), [FakeRecogniser()])


def gate(table: FaceTable, *, recogniser: FakeRecogniser | None = None, near_copy: int = 0, **settings: Any) -> Gate:
    """Without undoings, since all but the face of a negative is bright, and a face here; and whatever parts faces
    share, since all are squares."""
    judge = Judge.of(recogniser or FakeRecogniser(), certificate(), "deepface")
    settings = {"undoings": {}, "shared": 1.0, "finder": FakeFinder(), **settings}
    return Gate(judges=(judge,), originals=table, smallest_face=6, near_copy=near_copy, **settings)  # type: ignore[arg-type]


DOUBTS = ("no_face_in_source", "no_face_in_output", "face_count_changed", "face_too_small")


class WholeFinder(FakeFinder):
    """Every image is one face."""

    def _of(self, image: Pixels8) -> list[Face]:
        return [Face(box=(0, 0, image.shape[1], image.shape[0]), eyes=None, confidence=1.0, crop=image)]


class LoadedFinder(WholeFinder):
    """What stands in for `FaceFinder` where a job makes it by the detector's name."""

    def __init__(self, detector: str = "dlib", *, workers: int = 2) -> None:
        pass

    def __enter__(self) -> LoadedFinder:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class PixelRecogniser(FakeRecogniser):
    """A person is the picture, pixel by pixel."""

    threshold = 0.35

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        self.calls += 1
        if self.raises_at == self.calls:
            raise RuntimeError("the recogniser broke")
        if not crops:
            return np.zeros((0, 1), np.float32)
        vectors = np.array([crop.reshape(-1) for crop in crops], dtype=np.float32)
        return vectors - vectors.mean(1, keepdims=True)


def whole_originals(images: dict[str, Pixels8]) -> FaceTable:
    return tabulate(list(images.values()), list(images), [None] * len(images), WholeFinder(), [PixelRecogniser()])


def whole_gate(table: FaceTable, threshold: float) -> Gate:
    judge = Judge(recogniser=PixelRecogniser(), certificate=certificate(), threshold=threshold)
    return Gate(finder=WholeFinder(), judges=(judge,), originals=table, smallest_face=4, near_copy=0)  # type: ignore[arg-type]
