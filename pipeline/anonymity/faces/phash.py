"""A perceptual hash of 64 bits: the signs of an image's lowest frequencies, which scaling hardly changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.media.records import Pixels8

SIDE, LOWEST = 32, 8
"""Side of the shrunk image in pixels, and how many frequencies are kept along each axis."""
BITS = LOWEST**2
"""Bits of a hash."""
ROWS, COLUMNS = 256, 1 << 14
"""Hashes of both sides that are compared at a time, in some 40 MB."""
DECIMALS = 3
"""Coefficients are rounded to so many decimals, so that a flat image has exact zeros on every machine."""


def phash(images: Sequence[Pixels8]) -> NDArray[np.uint64]:
    """Hashes uint8 images `[H, W, 3]` of any sizes to uint64 `[N]`.

    Each image is made grey, shrunk to 32 × 32 with an antialiasing filter, and transformed by DCT-II; the lowest 8 × 8
    coefficients are kept. A bit is 1 where a coefficient exceeds the median of the 63 that are not the mean. This is
    Zauner (2010) as in `imagehash.phash`, except that the median leaves out the mean, which says nothing about the
    picture. Bit 63 is the mean, bit 0 the highest frequency.
    """
    if not images:
        return np.zeros(0, dtype=np.uint64)
    small = np.stack([_shrunk(image) for image in images]).astype(np.float64)
    lowest = (_cosines() @ small @ _cosines().T).round(DECIMALS).reshape(len(images), -1)
    bits = lowest > np.median(lowest[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def hamming(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Counts differing bits, 0 to 64, between all hashes uint64 `[Q]` and `[G]`: uint8 `[Q, G]`.

    It takes 5 bytes of memory for each pair.
    """
    return ((64 - _signs(a) @ _signs(b).T) / 2).astype(np.uint8)  # exact: float32 counts to 2²⁴


def closest(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The bits, 0 to 64, in which each hash `[Q]` differs from the nearest of `others [G]`; 64 without any.

    Memory does not grow with either side.
    """
    nearest = np.full(len(hashes), BITS, dtype=np.uint8)
    for column in range(0, len(others), COLUMNS):
        tile = others[column : column + COLUMNS]
        for row in range(0, len(hashes), ROWS):
            rows = slice(row, row + ROWS)
            np.minimum(nearest[rows], hamming(hashes[rows], tile).min(axis=1), out=nearest[rows])
    return nearest


def _shrunk(image: Pixels8) -> Pixels8:
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _cosines() -> NDArray[np.float64]:
    """`[8, 32]`: the first rows of the orthonormal DCT-II."""
    k, n = np.arange(LOWEST)[:, None], np.arange(SIDE)
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """`[N, 64]`: 1 for a bit that is set, else -1."""
    octets = np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1).astype(np.float32) * 2 - 1
