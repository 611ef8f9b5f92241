"""Certificates: how well a recogniser tells people apart on labelled photographs, and for what that holds.

A recogniser that cannot recognise anyone finds everybody anonymous. Before one may judge, its certificate must show
that it recognises, with the same weights, behind the same detector and on images of the same size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from pipeline.anonymity.faces.detect import TRANSFORM
from pipeline.anonymity.faces.gallery import distances
from pipeline.anonymity.faces.metrics import Roc, eer, roc, tar_at_far, threshold_at_far
from pipeline.assets import ROOT
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser
    from pipeline.anonymity.faces.detect import FaceFinder
    from pipeline.anonymity.faces.table import FaceTable

SHIPPED = ROOT / "certificates"
FARS = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
FLOOR = 0.8
FEWEST_PAIRS, FEWEST_PEOPLE = 50, 2
ROC_POINTS = 200
ROWS = 512
"""Of the matrix of all pairs, at a time."""


class Certificate(BaseModel):
    """What was measured, and what it is bound to. Statistics only: no name, no embedding."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    recogniser: str
    weights: str
    """sha256 of its weight files."""
    detector: str
    detector_weights: str
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    transform: str
    """What was done to them before detection."""
    data: str
    """Which photographs, and how they came to that size, in words."""
    people: int
    """With a face that was found."""
    images: int
    """With a known person, whether a face was found or not."""
    faces_found: float
    """Share of the images. All rates below are of the faces that were found."""
    genuine: int
    """Pairs of two images of one person."""
    impostor: int
    """Pairs of two people."""
    tar: dict[str, float]
    """True acceptance rate at the false acceptance rates 1e-2, 1e-3, 1e-4."""
    thresholds: dict[str, float]
    """The cosine distances that they belong to: recognised ⇔ distance ≤ threshold."""
    eer: float
    deepface_threshold: float | None
    """deepface's own; None where it has none."""
    deepface_tar: float | None
    deepface_far: float | None
    closest_impostor: float
    """The smallest distance of any two people."""
    floor: float
    """The least TAR at FAR 1e-2 with which the recogniser may certify anything."""
    roc: tuple[tuple[float, float, float], ...]
    """(FAR, TAR, threshold), ascending; at most 200 points of the curve."""

    @field_validator("tar", "thresholds")
    @classmethod
    def _complete(cls, rates: dict[str, float]) -> dict[str, float]:
        if set(rates) != set(FARS):
            raise ValueError(f"one value for each of {', '.join(FARS)} is expected")
        return rates

    @property
    def certifies(self) -> bool:
        return self.tar["1e-2"] >= self.floor

    def bind(self, recogniser: Recogniser, finder: FaceFinder, size: tuple[int, int]) -> None:
        """Raises `UserError` for the first thing that is not what the certificate was made with."""
        pairs = (
            ("recogniser", recogniser.name, self.recogniser),
            ("recogniser's weights", recogniser.weights, self.weights),
            ("detector", finder.detector, self.detector),
            ("detector's weights", finder.weights, self.detector_weights),
            ("image size", f"{size[0]} × {size[1]}", f"{self.size[0]} × {self.size[1]}"),
            ("transform", TRANSFORM, self.transform),
        )
        for what, found, allowed in pairs:
            if found != allowed:
                raise UserError(
                    f"certificate of {self.recogniser} at {self.size[0]} × {self.size[1]}: it holds for {what} "
                    f"{allowed!r} only, found {found!r}; doppel calibrate-faces makes another"
                )


def certify(
    table: FaceTable, recogniser: Recogniser, finder: FaceFinder, size: tuple[int, int], *, data: str,
    floor: float = FLOOR,
) -> Certificate:  # fmt: skip
    """All pairs of the images whose person is known, by the largest face of each; 4 bytes a pair.

    `table` was made by that recogniser and finder from images of `size` (height, width). Raises `UserError` for fewer
    than 50 genuine pairs or 2 people.
    """
    known = np.array([identity is not None for identity in table.identities], dtype=bool)
    faces = table.first_faces()
    faces = faces[known[table.image[faces]]]
    names = np.array([table.identities[i] or "" for i in table.image[faces]], dtype=object)
    people, person = np.unique(names, return_inverse=True) if len(names) else (names, np.zeros(0, np.int64))
    genuine, impostor = pairs(table.embeddings[recogniser.name][faces], person)
    if len(genuine) < FEWEST_PAIRS or len(people) < FEWEST_PEOPLE:
        raise UserError(
            f"data: {len(genuine)} pairs of images of one person and {len(people)} people were found; at least "
            f"{FEWEST_PAIRS} pairs and {FEWEST_PEOPLE} people are needed"
        )
    own = recogniser.threshold
    return Certificate(
        recogniser=recogniser.name, weights=recogniser.weights,
        detector=finder.detector, detector_weights=finder.weights,
        size=size, transform=TRANSFORM, data=data,
        people=len(people), images=int(known.sum()), faces_found=len(faces) / int(known.sum()),
        genuine=len(genuine), impostor=len(impostor),
        tar={name: tar_at_far(genuine, impostor, far) for name, far in FARS.items()},
        thresholds={name: threshold_at_far(impostor, far) for name, far in FARS.items()},
        eer=eer(genuine, impostor),
        deepface_threshold=own,
        deepface_tar=None if own is None else float(np.mean(genuine <= own)),
        deepface_far=None if own is None else float(np.mean(impostor <= own)),
        closest_impostor=float(impostor.min()), floor=floor, roc=_points(roc(genuine, impostor)),
    )  # fmt: skip


def pairs(
    embeddings: NDArray[np.float32], person: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors `[N, D]` and people's numbers `[N]` → distances of all genuine and of all impostor pairs."""
    genuine, impostor = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for row, of_rows in _triangle(embeddings):
        later = np.arange(row, len(embeddings)) > np.arange(row, row + len(of_rows))[:, None]
        same = person[row : row + len(of_rows), None] == person[None, row:]
        genuine.append(of_rows[later & same])
        impostor.append(of_rows[later & ~same])
    return np.concatenate(genuine), np.concatenate(impostor)


def load_certificate(file: Path) -> Certificate:
    """Raises `UserError` where the file is missing or holds no certificate."""
    try:
        return Certificate.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"certificate {file}: it cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"certificate {file}: {where}: {first['msg']}; doppel calibrate-faces writes them") from None


def find_certificate(recogniser: Recogniser, finder: FaceFinder, size: tuple[int, int]) -> Certificate:
    """The shipped certificate that holds for these. Raises `UserError` where there is none."""
    shipped = [load_certificate(file) for file in sorted(SHIPPED.glob("*.json"))]
    wanted = [c for c in shipped if (c.recogniser, c.size) == (recogniser.name, size)]
    if not wanted:
        names = ", ".join(f"{c.recogniser} {c.size[0]} × {c.size[1]}" for c in shipped) or "none"
        raise UserError(
            f"no certificate for recogniser {recogniser.name} at {size[0]} × {size[1]} ships with doppel "
            f"(shipped: {names}); doppel calibrate-faces makes one"
        )
    exact = [c for c in wanted if (c.detector, c.weights) == (finder.detector, recogniser.weights)]
    found = (exact or wanted)[0]
    found.bind(recogniser, finder, size)
    return found


def _triangle(embeddings: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, its and the next rows' distances to all from the first row on)."""
    for row in range(0, len(embeddings), ROWS):
        yield row, distances(embeddings[row : row + ROWS], embeddings[row:])


def _points(curve: Roc) -> tuple[tuple[float, float, float], ...]:
    """Points at even steps of log FAR, of each the last (the best TAR) that keeps it; and both ends."""
    positive = curve.far[curve.far > 0]
    levels = np.concatenate([[0.0], np.geomspace(positive[0], 1, ROC_POINTS - 1)])
    levels[-1] = 1
    chosen = np.unique(np.searchsorted(curve.far, levels, side="right") - 1)
    return tuple(
        (round(float(curve.far[i]), 8), round(float(curve.tar[i]), 6), round(float(curve.threshold[i]), 6))
        for i in chosen
    )
