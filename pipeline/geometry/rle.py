"""Masks as the run lengths of COCO: zeros and ones in turn, down the columns; as a list, or packed into text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.media.frame import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_rle(value: dict[str, Any], size: Size) -> NDArray[np.uint8]:
    """The mask of 0 and 1, uint8 `[H, W]`, of an image of `size` (width, height).

    Raises `ValueError`, `KeyError` or `TypeError` for another size, and for what are no run lengths.
    """
    if list(value["size"]) != [size[1], size[0]]:
        raise ValueError("its size is not the image's, height first")
    counts = value["counts"]
    runs = np.array(unpacked(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.astype(float).sum() != size[0] * size[1]:
        raise ValueError("its runs do not cover the image")
    return np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(size[::-1], order="F")


def write_rle(mask: NDArray[np.uint8], like: dict[str, Any]) -> dict[str, Any]:
    """The object `like`, with the run lengths of a mask `[H, W]` of 0 and 1, packed where they were."""
    flat = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *borders, len(flat)]).tolist()
    runs = [0, *runs] if flat[0] else runs
    return {**like, "size": list(mask.shape), "counts": packed(runs) if isinstance(like["counts"], str) else runs}


def unpacked(text: str) -> list[int]:
    """The run lengths in a text: five bits a character, the lowest first; from the fourth on, less the last but one."""
    runs, value, shift = list[int](), 0, 0
    for character in text.encode():
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its text is no packed RLE")
        value, shift = value | (bits & 31) << shift, shift + 5
        if not bits & 32:
            value -= (bits & 16) << 1 << (shift - 5)  # the highest bit is the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its text breaks off")
    return runs


def packed(runs: list[int]) -> str:
    """The inverse of `unpacked`."""
    text = ""
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text
