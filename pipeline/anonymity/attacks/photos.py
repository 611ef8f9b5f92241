"""What an attacker compares: one vector for each photograph, with who is in it and which original it goes back to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.anonymity.faces.phash import hamming, phash

if TYPE_CHECKING:
    from pipeline.anonymity.faces.table import FaceTable
    from pipeline.media.records import Pixels8

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]
Threat = Literal["T1", "T2"]
THREATS: Mapping[Threat, str] = {
    "T1": "the attacker holds other photographs of the person, never the one that the release was made from",
    "T2": "the attacker holds the very photograph that the release was made from; measured and stated, not solved",
}
NEAR_COPY = 4
"""Bits of the perceptual hash up to which two originals of one person count as one photograph, copied."""
UNKNOWN = -1
THUMBNAIL, BINS = 16, 16


@dataclass(frozen=True, kw_only=True)
class Photos:
    """F photographs, clean or released."""

    vectors: Vectors
    """`[F, D]`, rows of length 1, compared by cosine distance 1 − a·b."""
    photo: Indices
    """`[F]`: number of the original that it is, or was made from."""
    person: Indices
    """`[F]`: number of the person, −1 where unknown."""
    phash: NDArray[np.uint64]
    """`[F]`: perceptual hash of that original."""

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Indices | Bools) -> Photos:
        return Photos(
            vectors=self.vectors[rows], photo=self.photo[rows], person=self.person[rows], phash=self.phash[rows]
        )

    def seen_as(self, vectors: Vectors) -> Photos:
        """The same photographs with other vectors, brought to length 1."""
        norms = np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
        unit = (vectors / norms).astype(np.float32)
        return Photos(vectors=unit, photo=self.photo, person=self.person, phash=self.phash)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Originals, what was released of them, and which is whose."""

    originals: FaceTable
    released: FaceTable
    source: Indices
    """`[R]`: the original that each released image was made from, −1 where unknown."""
    layouts: Mapping[str, tuple[Vectors, Vectors]] = field(default_factory=dict)
    """Name → vectors of originals `[N, D]` and released images `[R, D]` that need no face; see `layouts`."""

    @cached_property
    def person(self) -> Indices:
        """`[N]`: who is in each original, −1 where unknown. Numbers follow a hash: those of an alphabet would tell."""
        known = [name is not None for name in self.originals.identities]
        numbers = np.full(len(known), UNKNOWN, dtype=np.int64)
        named = [name.encode("utf-8", "surrogatepass") for name in self.originals.identities if name is not None]
        if named:
            numbers[known] = np.unique([blake2b(name).hexdigest() for name in named], return_inverse=True)[1]
        return numbers

    @property
    def recognisers(self) -> tuple[str, ...]:
        """All that can be attacked with: recognisers of faces first, then layouts."""
        return (*self.originals.embeddings, *self.layouts)

    def clean(self, name: str) -> Photos:
        """The originals as recogniser or layout `name` sees them: those with a face, by their largest."""
        vectors, image = self._seen(name, self.originals, 0)
        return Photos(vectors=vectors, photo=image, person=self.person[image], phash=self.originals.phash[image])

    def made(self, name: str) -> Photos:
        """The same of released images whose source is known; photo, person and hash are the source's."""
        vectors, image = self._seen(name, self.released, 1)
        known = self.source[image] != UNKNOWN
        photo = self.source[image[known]]
        return Photos(vectors=vectors[known], photo=photo, person=self.person[photo], phash=self.originals.phash[photo])

    def seen_released(self, name: str) -> Vectors:
        """Vectors `[M, D]` of all released images, those of unknown source, too."""
        return self._seen(name, self.released, 1)[0]

    def _seen(self, name: str, table: FaceTable, side: int) -> tuple[Vectors, Indices]:
        if name in self.layouts:
            vectors = self.layouts[name][side]
            return vectors, np.arange(len(vectors))
        return main_faces(table, name)


def main_faces(table: FaceTable, name: str) -> tuple[Vectors, Indices]:
    """The largest face of each image that has one: unit vectors `[F, D]`, and the images `[F]`."""
    first = table.first_faces()
    return table.embeddings[name][first], table.image[first]


def related(query: Photos, gallery: Photos, threat: Threat, *, same: Indices | None = None) -> tuple[Bools, Bools]:
    """Which gallery photographs are mates of each query, and which the threat model does not allow: both `[Q, G]`.

    T1: mates show the same person; the query's own original, what was made from it and near-copies of it are barred.
    T2: mates go back to the same original. `same [Q]`: the gallery rows that the queries themselves are, barred too.
    """
    own = query.photo[:, None] == gallery.photo
    if threat == "T2":
        barred = np.zeros_like(own)
        mates = own
    else:
        person = (query.person[:, None] == gallery.person) & (query.person[:, None] != UNKNOWN)
        barred = own | (person & (hamming(query.phash, gallery.phash) <= NEAR_COPY))
        mates = person
    if same is not None:
        barred = barred | (same[:, None] == np.arange(len(gallery)))
    return mates & ~barred, barred


def layouts(images: Sequence[Pixels8]) -> dict[str, Vectors]:
    """What links a photograph to itself without any face: unit vectors `[N, D]` by name.

    `pixels`: 16 × 16 thumbnail without its mean, so that the distance is half the squared one of normalised pixels;
    `phash`: the 64 bits as ±1, distance h/32 at h bits; `colours`: roots of the three channels' histograms of 16
    levels (Bhattacharyya), which neither tile shuffles nor flips change.
    """
    return {"pixels": _thumbnails(images), "phash": _bits(phash(images)), "colours": _colours(images)}


def _thumbnails(images: Sequence[Pixels8]) -> Vectors:
    small = [Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for image in images]
    flat = np.array([np.asarray(image) for image in small], dtype=np.float32).reshape(-1, 3 * THUMBNAIL**2)
    flat -= flat.mean(axis=1, keepdims=True)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True).clip(min=1e-6)).astype(np.float32)


def _bits(hashes: NDArray[np.uint64]) -> Vectors:
    octets = np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    return ((np.unpackbits(octets, axis=1) * 2.0 - 1) / 8).astype(np.float32)


def _colours(images: Sequence[Pixels8]) -> Vectors:
    rows = []
    for image in images:
        levels = image.reshape(-1, 3) // (256 // BINS) + BINS * np.arange(3)
        counts = np.bincount(levels.ravel(), minlength=3 * BINS)
        rows.append(np.sqrt(counts / counts.sum()))
    return np.array(rows, dtype=np.float32).reshape(-1, 3 * BINS)
