"""Certificates: how well a recogniser tells people apart on labelled photographs, and for what that holds.

A recogniser that cannot recognise anyone would find everybody anonymous. Before one may judge, its certificate must
show that it does recognise people with the same weights, behind the same detector and on images of the same size.
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
"""Folder of the certificates that ship with doppel."""
FARS = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}
"""The false acceptance rates of a certificate, by their names."""
FLOOR = 0.8
"""By default, a recogniser must reach this true acceptance rate at FAR 1e-2 before it may certify anything."""
FEWEST_PAIRS, FEWEST_PEOPLE = 50, 2
"""A certificate needs at least so many genuine pairs and so many people."""
ROC_POINTS = 200
"""Points of the curve that a certificate keeps, at most."""
ROWS = 512
"""Rows of the matrix of all pairs that are computed at a time."""


class Certificate(BaseModel):
    """What was measured of a recogniser, and what this is bound to: statistics only, no name and no embedding."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    recogniser: str
    """Name of the recogniser, as in `anonymity.recognisers`."""
    weights: str
    """sha256 of the recogniser's weight files."""
    detector: str
    """Name of the detector, one of `DETECTORS`."""
    detector_weights: str
    """sha256 of the detector's weight files."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    transform: str
    """What was done to the images before detection."""
    data: str
    """Which photographs were used, and how they came to that size, in words."""
    people: int
    """How many known people have an image in which a face was found."""
    images: int
    """How many images show a known person, whether or not a face was found."""
    faces_found: float
    """The fraction of these images in which a face was found. All rates below concern only faces that were found."""
    genuine: int
    """How many pairs of images of one person were compared."""
    impostor: int
    """How many pairs of images of two people were compared."""
    tar: dict[str, float]
    """True acceptance rate, in [0, 1], at the false acceptance rates 1e-2, 1e-3 and 1e-4."""
    thresholds: dict[str, float]
    """The cosine distance that gives each of these rates: recognised ⇔ distance ≤ threshold."""
    eer: float
    """Equal error rate, in [0, 1]."""
    deepface_threshold: float | None
    """deepface's threshold of the cosine distance; None where it has none for this recogniser."""
    deepface_tar: float | None
    """True acceptance rate at deepface's threshold, in [0, 1]."""
    deepface_far: float | None
    """False acceptance rate at deepface's threshold, in [0, 1]."""
    closest_impostor: float
    """The smallest cosine distance between images of two people."""
    floor: float
    """The true acceptance rate at FAR 1e-2 that the recogniser must reach before it may certify anything."""
    roc: tuple[tuple[float, float, float], ...]
    """(FAR, TAR, threshold) of at most 200 points of the curve, ascending."""

    @field_validator("tar", "thresholds")
    @classmethod
    def _complete(cls, rates: dict[str, float]) -> dict[str, float]:
        if set(rates) != set(FARS):
            raise ValueError(f"one value for each of {', '.join(FARS)} is expected")
        return rates

    @property
    def certifies(self) -> bool:
        """Whether the recogniser may judge: its true acceptance rate at FAR 1e-2 is not below the floor."""
        return self.tar["1e-2"] >= self.floor

    def bind(self, recogniser: Recogniser, finder: FaceFinder, size: tuple[int, int]) -> None:
        """Checks that recogniser, detector and size (height, width) are what the certificate was made with.

        Raises `UserError` for the first that differs.
        """
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
    """Measures a recogniser on all pairs of images of known people, each represented by its largest face.

    `table` was made by that recogniser and finder from images of `size` (height, width). Takes 4 bytes of memory a
    pair. Raises `UserError` for fewer than 50 genuine pairs or 2 people.
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
    """The cosine distances of all genuine and of all impostor pairs.

    Takes unit vectors `[N, D]` and the numbers of the people `[N]`.
    """
    genuine, impostor = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for row, of_rows in _triangle(embeddings):
        later = np.arange(row, len(embeddings)) > np.arange(row, row + len(of_rows))[:, None]
        same = person[row : row + len(of_rows), None] == person[None, row:]
        genuine.append(of_rows[later & same])
        impostor.append(of_rows[later & ~same])
    return np.concatenate(genuine), np.concatenate(impostor)


def load_certificate(file: Path) -> Certificate:
    """Reads a certificate. Raises `UserError` where the file is missing or holds none."""
    try:
        return Certificate.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"certificate {file}: it cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"certificate {file}: {where}: {first['msg']}; doppel calibrate-faces writes them") from None


def find_certificate(recogniser: Recogniser, finder: FaceFinder, size: tuple[int, int]) -> Certificate:
    """Finds the shipped certificate that holds for these; `size` is (height, width).

    Raises `UserError` where there is none.
    """
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
