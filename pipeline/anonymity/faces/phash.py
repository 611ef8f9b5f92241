"""A perceptual hash of 64 bits: the signs of an image's lowest frequencies, which outlive scaling and encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.media.records import Pixels8

SIDE, LOWEST = 32, 8
DECIMALS = 3
"""Coefficients are rounded to these, so that a flat image has the zeros that it should have, on every machine."""


def phash(images: Sequence[Pixels8]) -> NDArray[np.uint64]:
    """uint8 `[H, W, 3]` images of any sizes → uint64 `[N]`.

    Grey, shrunk to 32 × 32 with an antialiasing filter, DCT-II, the lowest 8 × 8 coefficients; a bit is 1 where the
    coefficient exceeds the median of the 63 that are no mean (Zauner 2010, as `imagehash.phash` has it but for the
    mean, which says nothing of the picture). Bit 63 is the mean, bit 0 the highest frequency.
    """
    if not images:
        return np.zeros(0, dtype=np.uint64)
    small = np.stack([_shrunk(image) for image in images]).astype(np.float64)
    lowest = (_cosines() @ small @ _cosines().T).round(DECIMALS).reshape(len(images), -1)
    bits = lowest > np.median(lowest[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def hamming(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits differ, 0 to 64: uint64 `[Q]` and `[G]` → uint8 `[Q, G]`; takes 5 bytes a pair on the way."""
    return ((64 - _signs(a) @ _signs(b).T) / 2).astype(np.uint8)  # exact: float32 counts to 2²⁴


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
