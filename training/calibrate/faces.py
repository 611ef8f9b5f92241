"""How far the faces in neighbours are from those of their originals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.scanning import tabulated
from pipeline.errors import UserError
from training.calibrate.plot import FacesAtLevel

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.anonymity.faces.table import FaceTable
    from training.calibrate.config import FacesConfig
    from training.calibrate.locality import MadeNeighbours


@contextmanager
def identity_meter(
    config: FacesConfig | None, originals: Tensor, device: str
) -> Iterator[Callable[[MadeNeighbours], FacesAtLevel] | None]:
    """Yields a function that measures neighbours by the faces of their originals, uint8 `[N, 3, H, W]`.

    Yields None without `config`. Raises `UserError` for a recogniser, detector or weights that are unknown or missing,
    for a recogniser without a threshold, and for images without faces.
    """
    if config is None:
        yield None
        return
    recogniser = load_recogniser(config.recogniser, device=device, workers=config.workers)
    threshold = config.threshold or recogniser.threshold
    if threshold is None:
        raise UserError(f"faces.threshold is missing: deepface has none for recogniser {config.recogniser}")
    with FaceFinder(config.detector, workers=config.workers) as finder:

        def faces(pixels: Tensor) -> FaceTable:
            rows = enumerate(pixels.permute(0, 2, 3, 1).contiguous().numpy())
            return tabulated(((str(i), None, image) for i, image in rows), finder, [recogniser])

        before = faces(originals)
        if not len(before.image):
            raise UserError(f"faces: detector {config.detector} finds no face in the {len(originals)} images of data")

        def measured(made: MadeNeighbours) -> FacesAtLevel:
            after = faces(made.pixels.flatten(0, 1))
            return face_distance(before, after, made.sound.numpy(), config.recogniser, threshold)

        yield measured


def face_distance(
    before: FaceTable, after: FaceTable, sound: NDArray[np.bool_], recogniser: str, threshold: float
) -> FacesAtLevel:
    """Compares the largest faces of N originals with those of their C·N neighbours, given copy by copy.

    Only neighbours with a finite output count, those where `sound [C, N]` is true.
    """
    own, theirs = before.first_faces(), after.first_faces()
    row = np.full(len(before.keys), -1)  # of each original's face
    row[before.image[own]] = own
    source = row[after.image[theirs] % len(row)]
    compared = (source >= 0) & sound.ravel()[after.image[theirs]]
    a, b = before.embeddings[recogniser][source[compared]], after.embeddings[recogniser][theirs[compared]]
    distances = 1 - np.einsum("fd,fd->f", a, b)
    return FacesAtLevel(
        distance=float(distances.mean()) if len(distances) else None,
        beyond=float((distances > threshold).mean()) if len(distances) else None,
        lost=1 - len(distances) / max(1, int(sound[:, row >= 0].sum())),
    )
