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
"""Both threat models, in words that reports repeat."""
NEAR_COPY = 4
"""Two originals of one person whose perceptual hashes differ in at most so many of 64 bits count as copies of one
photograph."""
UNKNOWN = -1
"""The number that stands for an unknown person or source."""
THUMBNAIL, BINS = 16, 16
"""Side of the thumbnails in pixels, and bins of a channel's histogram."""


@dataclass(frozen=True, kw_only=True)
class Photos:
    """A set of F photographs, clean or released, one vector for each."""

    vectors: Vectors
    """`[F, D]`, rows of length 1, compared by cosine distance 1 − a·b."""
    photo: Indices
    """`[F]`: number of the original that the photograph is, or was made from."""
    person: Indices
    """`[F]`: number of the person in it; −1 where unknown."""
    phash: NDArray[np.uint64]
    """`[F]`: perceptual hash of that original, 64 bits."""

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Indices | Bools) -> Photos:
        """The photographs at the given rows, or where a mask `[F]` is true."""
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
    """Originals and released images as tables of faces, and which released image was made from which original."""

    originals: FaceTable
    released: FaceTable
    source: Indices
    """`[R]`: the original that each released image was made from, −1 where unknown."""
    layouts: Mapping[str, tuple[Vectors, Vectors]] = field(default_factory=dict)
    """Name → vectors of originals `[N, D]` and released images `[R, D]` that need no face; see `layouts`."""

    @cached_property
    def person(self) -> Indices:
        """`[N]`: number of the person in each original, −1 where unknown."""
        return people_of(self.originals.identities)

    @property
    def recognisers(self) -> tuple[str, ...]:
        """The names of everything that can be attacked with: recognisers of faces first, then layouts."""
        return (*self.originals.embeddings, *self.layouts)

    def clean(self, name: str) -> Photos:
        """The originals as the recogniser or layout `name` sees them; of several faces in an image, the largest."""
        vectors, image = self._seen(name, self.originals, 0)
        return Photos(vectors=vectors, photo=image, person=self.person[image], phash=self.originals.phash[image])

    def made(self, name: str) -> Photos:
        """The released images of known source, as in `clean`; photo, person and hash are those of the source."""
        vectors, image = self._seen(name, self.released, 1)
        known = self.source[image] != UNKNOWN
        photo = self.source[image[known]]
        return Photos(vectors=vectors[known], photo=photo, person=self.person[photo], phash=self.originals.phash[photo])

    def seen_released(self, name: str) -> Vectors:
        """Vectors `[M, D]` of all released images that the recogniser or layout `name` can see, of any source."""
        return self._seen(name, self.released, 1)[0]

    def _seen(self, name: str, table: FaceTable, side: int) -> tuple[Vectors, Indices]:
        if name in self.layouts:
            vectors = self.layouts[name][side]
            return vectors, np.arange(len(vectors))
        return main_faces(table, name)


def people_of(identities: Sequence[str | None]) -> Indices:
    """`[N]`: number of the person in each of N images, −1 where unknown.

    Numbers follow the order of a hash of the names, because their alphabetical order would tell something about them.
    """
    known = [name is not None for name in identities]
    numbers = np.full(len(known), UNKNOWN, dtype=np.int64)
    named = [name.encode("utf-8", "surrogatepass") for name in identities if name is not None]
    if named:
        numbers[known] = np.unique([blake2b(name).hexdigest() for name in named], return_inverse=True)[1]
    return numbers


def main_faces(table: FaceTable, name: str) -> tuple[Vectors, Indices]:
    """The largest face of each image that has one: unit vectors `[F, D]`, and the numbers of the images `[F]`."""
    first = table.first_faces()
    return table.embeddings[name][first], table.image[first]


def related(query: Photos, gallery: Photos, threat: Threat, *, same: Indices | None = None) -> tuple[Bools, Bools]:
    """Tells which gallery photographs are mates of each query, and which the threat model bars: two masks `[Q, G]`.

    Under T1, mates show the same person; barred are the query's own original, everything made from it, and its
    near-copies. Under T2, mates go back to the same original. `same [Q]` gives the gallery rows that are the queries
    themselves; these are barred, too.
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
    """Vectors that link a photograph to itself without any face: unit vectors `[N, D]` by name.

    `pixels` is a thumbnail of 16 × 16 pixels without its mean, so that its cosine distance is half the squared distance
    of normalised pixels. `phash` is the perceptual hash as 64 signs, with a distance of h/32 for h differing bits.
    `colours` holds the square roots of the histograms of the three channels, 16 bins each (Bhattacharyya's
    coefficient); neither shuffled tiles nor flips change it.
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
