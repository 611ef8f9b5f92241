"""The last look before a release is sealed: is any original, or a near-copy of one, among what would be published?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.faces.gallery import nearest
from pipeline.anonymity.faces.phash import BITS
from pipeline.errors import UserError
from pipeline.section import Section

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.anonymity.faces.table import FaceTable


CHUNK = 4096
"""Faces that are looked for at a time."""


class NearCopyScan(Section):
    """What a search for near-copies has found."""

    method: str = "perceptual hash (DCT, 64 bits) of each released image against all originals"
    """How images were compared, in words."""
    within_bits: int
    """An image counts as a copy where it differs in at most so many of 64 bits."""
    released: int
    """Released images that were compared."""
    originals: int
    """Originals that they were compared with."""
    found: int
    """Copies that were found: 0 in a release."""
    closest_bits: int
    """The smallest number of bits in which a released image and an original differ."""


class FaceScan(Section):
    """What a search for copied faces has found with one recogniser."""

    nearer_than: float
    """Two faces at a smaller cosine distance count as the same one."""
    faces: int
    """Released faces that were compared."""
    originals: int
    """Faces of originals that they were compared with."""
    found: int
    """Copied faces that were found: 0 in a release."""
    closest: float | None
    """Cosine distance of the closest pair; None without faces on either side."""


def check_near_copies(bits: NDArray[np.uint8], originals: int, near_copy: int) -> NearCopyScan:
    """Checks `bits [M]` as `closest` gives them, and returns what is to be said in the manifest.

    A pixel-exact original differs in no bit. Raises `UserError` for any near-copy.
    """
    found = int((bits <= near_copy).sum())
    if found:
        raise UserError(
            f"{found} of {len(bits)} images to be released are near-copies of originals (pHash within {near_copy} "
            "bits): nothing was released; raise anonymity.near_copy above release.near_copy, or the operator's level"
        )
    return NearCopyScan(
        within_bits=near_copy, released=len(bits), originals=originals, found=found,
        closest_bits=int(bits.min(initial=BITS)),
    )  # fmt: skip


def check_faces(
    originals: FaceTable, outputs: FaceTable, released: NDArray[np.bool_], copy_distance: Mapping[str, float]
) -> dict[str, FaceScan]:
    """Checks released faces against those of originals, by recogniser, and returns what is to be said in the manifest.

    `copy_distance` is the cosine distance that faces of two people stay above. `released [N]` tells which images of
    `outputs` are. Raises `UserError` for any face that is nearer to an original's.
    """
    if not copy_distance:
        raise ValueError("copy_distance names no recogniser: no face would be looked at")
    kept = np.flatnonzero(released[outputs.image])
    scans = {}
    for name, least in sorted(copy_distance.items()):
        faces, gallery = outputs.embeddings[name], originals.embeddings[name]
        distances = np.full(len(kept), np.inf, dtype=np.float32)
        for first in range(0, len(kept) if len(gallery) else 0, CHUNK):
            rows = slice(first, first + CHUNK)
            distances[rows] = nearest(faces[kept[rows]], gallery, 1)[0][:, 0]
        found = int((distances < least).sum())
        if found:
            raise UserError(
                f"{found} of {len(kept)} faces to be released are as near to an original's as only the same face is "
                f"({name}: cosine distance below {least:.4g}): nothing was released"
            )
        scans[name] = FaceScan(
            nearer_than=least, faces=len(kept), originals=len(gallery), found=found,
            closest=round(float(distances.min()), 4) if np.isfinite(distances).any() else None,
        )  # fmt: skip
    return scans
