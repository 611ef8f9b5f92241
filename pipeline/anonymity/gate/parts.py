"""How many parts of a face are the source's own, moved a little or in other colours: a photograph in disguise has many.

A bar over the eyes, JPEG of the worst quality or a warp may fool recognisers, but the rest of the face is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from pipeline.anonymity.gate.face_masks import FaceBox
    from pipeline.media.records import Pixels8

SIDE, PART, STEP, REACH = 40, 8, 3, 3
"""The face's box is brought to `SIDE` pixels a side, and cut into parts of `PART` pixels a side, one every `STEP`
pixels. Each is looked for up to `REACH` pixels from its place."""
ALIKE = 0.95
"""Two parts are one where their correlation is above this, or below its negative."""
PLAIN = 2.0
"""A part says nothing where the standard deviation of its pixels, of 255, is below this."""
MANY = 0.4
"""A face with a larger share of parts of the source is the source's own. The faces of strangers have at most .19, those
that the embedded face model makes at t_boom .8 and .9 at most .36, bars over the eyes .40 and more (LFW, 64 pixels, 60
people)."""
FEWEST = 5
"""Nothing is said of a face with fewer parts that say anything."""


def shared_parts(image: Pixels8, source: Pixels8, box: FaceBox) -> float:
    """The share, in [0, 1], of the parts of `image` in a box that are found in `source` near the same place.

    Both are uint8 `[H, W, 3]` of one size; the box is that of a face of the source. Parts are compared by the absolute
    value of their normalised cross-correlation (Lewis, "Fast normalized cross-correlation", 1995), after a small blur
    and in grey, so that light, contrast, colours and a negative change nothing. 0 where the image has hardly any parts.
    """
    made, known = parts(face_of(image, box))[REACH:-REACH:STEP, REACH:-REACH:STEP], parts(face_of(source, box))
    around = sliding_window_view(known, (2 * REACH + 1, 2 * REACH + 1), (0, 1))[::STEP, ::STEP]
    likeness = np.abs(np.einsum("yxp,yxpij->yxij", made, around)).max((2, 3))
    telling = made.any(-1)
    return float((likeness[telling] > ALIKE).mean()) if telling.sum() >= FEWEST else 0.0


def face_of(image: Pixels8, box: FaceBox) -> NDArray[np.float32]:
    """The part of an image in a box, grey, a little blurred, float32 `[SIDE, SIDE]`; at least one pixel of it."""
    height, width = image.shape[:2]
    left, top = min(max(box[0], 0), width - 1), min(max(box[1], 0), height - 1)
    corners = (left, top, max(min(box[0] + box[2], width), left + 1), max(min(box[1] + box[3], height), top + 1))
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC, corners)
    return np.asarray(grey.filter(ImageFilter.GaussianBlur(1)), np.float32)


def parts(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """All parts of float32 `[S, S]`, `[S - 7, S - 7, 64]`: with mean 0 and length 1; zeros where one says nothing."""
    windows = sliding_window_view(pixels, (PART, PART)).reshape(*np.subtract(pixels.shape, PART - 1), -1)
    windows = windows - windows.mean(-1, keepdims=True)
    lengths = np.linalg.norm(windows, axis=-1, keepdims=True)
    return windows * np.where(lengths >= PLAIN * PART, 1 / np.maximum(lengths, 1e-6), 0)
