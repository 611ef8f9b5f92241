"""Finding faces in images, and aligning and cutting them exactly as deepface does, in several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from pipeline.anonymity.faces.backend import build, offline
from pipeline.anonymity.faces.processes import ModelProcesses
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SHORTER, LONGER = 192, 4096
"""Images are enlarged to a shorter side of the first number of pixels, but no longer side beyond the second."""
CHIP, MARGIN = 150, 0.25
"""Side of a chip in pixels, and the margin around its face as a fraction of the face's size; both are dlib's."""
SQUARE, SIDES, RAISED = 224, 1.3, 0.1
"""Side of a square in pixels; its side in the image, in widths of the box; and how much higher than the box its centre
lies, as a share of the box's height."""
TRANSFORM = f"shorter side to at least {SHORTER} px, bicubic"
"""What is done to an image before detection; a certificate is bound to it."""
SOUGHT, SUSPICION = 100, -0.5
"""A suspected face would have so many pixels a side (dlib's detector finds 80 and more), and at least this score of
dlib's, which is above 0 for faces that are found."""
DETECTORS = (
    "dlib", "centerface", "fastmtcnn", "mediapipe", "mtcnn", "opencv", "retinaface", "ssd", "yunet",
    "yolov8n", "yolov8m", "yolov8l", "yolov11n", "yolov11s", "yolov11m", "yolov11l",
    "yolov12n", "yolov12s", "yolov12m", "yolov12l",
)  # fmt: skip
"""deepface's detectors. `skip` is left out because it takes the whole image for a face, so that a destroyed face would
count as another person."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face of an image. Coordinates are in pixels of the image as it was given, before it was enlarged."""

    box: tuple[float, float, float, float]
    """Left, top, width and height of the part that lies inside the image."""
    eyes: tuple[tuple[float, float], tuple[float, float]] | None
    """(x, y) of the person's left and right eye; None where the detector finds no eyes."""
    confidence: float
    """The detector's own score; its range depends on the detector."""
    crop: Pixels8
    """uint8 RGB `[h, w, 3]`, cut and aligned from the enlarged image."""
    chip: Pixels8 | None = None
    """uint8 RGB `[150, 150, 3]`, set by detector dlib only: the face made upright by five landmarks, with a margin of a
    quarter, as dlib's own programs cut the faces that its network was trained on."""
    landmarks: tuple[tuple[float, float], ...] | None = None
    """(x, y) of five points, by detector dlib only: two corners of the eye on the image's right, two of the other, and
    the base of the nose."""
    square: Pixels8 | None = None
    """uint8 RGB `[224, 224, 3]`, not turned: the part of the enlarged image that `square_around` tells of the
    detector's box. Beyond the image, its edge goes on."""


def enlarge(image: Pixels8) -> Pixels8:
    """Enlarges uint8 `[H, W, 3]` to a shorter side of at least 192 px (bicubic); larger images stay as they are.

    The longer side does not grow beyond 4096 px, because a strip one pixel high would fill the memory.
    """
    height, width = image.shape[:2]
    return scaled(image, max(1, min(SHORTER / min(height, width), LONGER / max(height, width))))


def scaled(image: Pixels8, scale: float) -> Pixels8:
    """An image of uint8 `[H, W, 3]` at another scale (bicubic), at least one pixel a side."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image if scale == 1 else np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def square_around(box: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Left, top and side of the square around the box (left, top, width and height) of a face."""
    left, top, width, height = box
    side = SIDES * width
    return left + (width - side) / 2, top + (height - side) / 2 - RAISED * height, side


class Detection:
    """One of deepface's detectors, run in this process."""

    def __init__(self, detector: str) -> None:
        self.detector = detector
        model, self.weights = build("face_detector", detector)
        self._landmarks = model.model["sp"] if detector == "dlib" else None

    def find(self, image: Pixels8) -> list[Face]:
        """Finds the faces of one image, the largest first; [] for none, never the whole image in place of a face."""
        with offline(f"detector {self.detector}"):
            from deepface.modules.detection import detect_faces

            enlarged = enlarge(image)
            found = detect_faces(self.detector, np.ascontiguousarray(enlarged[..., ::-1]))
        scale = (enlarged.shape[1] / image.shape[1], enlarged.shape[0] / image.shape[0])
        # `extract_faces`, and so `represent` and `verify`, leave out crops without pixels too.
        faces = [
            self._marked(_face(one, enlarged.shape[:2], scale), enlarged, one.facial_area, scale)
            for one in found
            if one.img.size
        ]
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])

    def _marked(self, face: Face, enlarged: Pixels8, area: Any, scale: tuple[float, float]) -> Face:
        """The face with its square, and where the detector is dlib with its landmarks and chip."""
        face = replace(face, square=_square(enlarged, area))
        if self._landmarks is None:
            return face
        import dlib

        found = self._landmarks(enlarged, dlib.rectangle(area.x, area.y, area.x + area.w, area.y + area.h))
        return replace(
            face,
            landmarks=tuple(_point((part.x, part.y), scale) for part in found.parts()),
            chip=dlib.get_face_chip(enlarged, found, size=CHIP, padding=MARGIN),
        )


def _face(found: Any, size: tuple[int, ...], scale: tuple[float, float]) -> Face:
    area = found.facial_area
    left, top = max(0, area.x), max(0, area.y)
    right, bottom = min(size[1], area.x + area.w), min(size[0], area.y + area.h)
    eyes = None
    if area.left_eye is not None and area.right_eye is not None:
        eyes = (_point(area.left_eye, scale), _point(area.right_eye, scale))
    return Face(
        box=(left / scale[0], top / scale[1], max(0, right - left) / scale[0], max(0, bottom - top) / scale[1]),
        eyes=eyes,
        confidence=float(found.confidence),
        crop=np.ascontiguousarray(found.img[..., ::-1]),
    )


def _square(enlarged: Pixels8, area: Any) -> Pixels8:
    left, top, side = square_around((area.x, area.y, area.w, area.h))
    height, width = enlarged.shape[:2]
    beyond = max(0, math.ceil(max(-left, -top, left + side - width, top + side - height)))
    padded = np.pad(enlarged, [(beyond, beyond), (beyond, beyond), (0, 0)], mode="edge") if beyond else enlarged
    box = (left + beyond, top + beyond, left + beyond + side, top + beyond + side)
    how = Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(padded).transform((SQUARE, SQUARE), *how))


def _point(at: tuple[float, float], scale: tuple[float, float]) -> tuple[float, float]:
    # Pixels count from their centres: the first of an image enlarged three times lies at -1/3 of the given one.
    return (at[0] + 0.5) / scale[0] - 0.5, (at[1] + 0.5) / scale[1] - 0.5


class FaceFinder:
    """Finds faces with one of deepface's detectors, in `workers` processes that it owns (0: in this one)."""

    def __init__(self, detector: str = "dlib", *, workers: int = 2) -> None:
        """Raises `UserError` for an unknown detector, and where a package or weight file is missing."""
        if detector not in DETECTORS:
            raise UserError(f"detector is {detector!r}; known are {', '.join(DETECTORS)}")
        self.detector = detector
        self._pool = ModelProcesses("detector", detector, workers=workers) if workers else None
        self._own = None if workers else Detection(detector)
        self.weights: str = (self._pool or self._own).weights  # type: ignore[union-attr]

    def find(self, images: Sequence[Pixels8]) -> list[list[Face]]:
        """Finds the faces in uint8 RGB images `[H, W, 3]` of any sizes; one list for each, the largest face first.

        Raises `UserError` where a worker process fails or dies.
        """
        if self._own is not None:
            return [self._own.find(image) for image in images]
        assert self._pool is not None
        return self._pool.map(images)

    def suspects(self, images: Sequence[Pixels8], smallest: Sequence[float]) -> list[bool]:
        """Whether there might be a face in each image, whose shorter side would be `smallest` pixels or more.

        It takes a sixteenth of the time of `find`, and errs by suspecting too much. With another detector than dlib all
        images are suspect.
        """
        if self.detector != "dlib":
            return [True] * len(images)
        import dlib

        search = dlib.get_frontal_face_detector()
        return [
            len(search.run(np.ascontiguousarray(scaled(image, SOUGHT / side)), 0, SUSPICION)[0]) > 0
            for image, side in zip(images, smallest, strict=True)
        ]

    def close(self) -> None:
        """Ends the worker processes; it may be called more than once."""
        if self._pool is not None:
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
