"""Masks of what is to be repainted: the shapes of RePaint (2201.09865, section 5.1), and masks from images."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field

from pipeline.section import Section

Mask: TypeAlias = NDArray[np.bool_]
"""bool `[H, W]`: True where the image is to change."""
Size: TypeAlias = tuple[int, int]
"""Height and width."""
Channel = Literal["luma", "alpha", "transparency", "index"]
"""What of an image is its mask; see `MaskRules.channel`."""
WHITES = (1, 255, 65535)
"""The values that stand for "change", one of them in each mask."""
Shape = Literal["half", "wide", "narrow", "lines", "expand", "super_resolution", "centre"]
"""The name of a shape."""


def half(size: Size, rng: np.random.Generator) -> Mask:
    """Changes the right half."""
    mask = np.zeros(size, bool)
    mask[:, size[1] // 2 :] = True
    return mask


def lines(size: Size, rng: np.random.Generator) -> Mask:
    """Changes every second row, from the second on."""
    mask = np.zeros(size, bool)
    mask[1::2] = True
    return mask


def super_resolution(size: Size, rng: np.random.Generator) -> Mask:
    """Changes all but every second pixel in both directions."""
    mask = np.ones(size, bool)
    mask[::2, ::2] = False
    return mask


def box(size: Size, share: float) -> Mask:
    """Changes a box in the middle that spans a fraction `share` of either side."""
    inner = [max(1, round(side * share)) for side in size]
    top, left = ((side - part) // 2 for side, part in zip(size, inner, strict=True))
    mask = np.zeros(size, bool)
    mask[top : top + inner[0], left : left + inner[1]] = True
    return mask


def expand(size: Size, rng: np.random.Generator) -> Mask:
    """Changes all but the middle quarter of either side."""
    return ~box(size, 1 / 4)


def centre(size: Size, rng: np.random.Generator) -> Mask:
    """Changes the middle half of either side."""
    return box(size, 1 / 2)


def strokes(size: Size, rng: np.random.Generator, *, width: float, share: float) -> Mask:
    """Changes bent strokes as in LaMa (2109.07161), until they cover a fraction `share` of all pixels.

    They are as thick as a fraction `width` of the shorter side.
    """
    height, breadth = size
    side = min(size)
    thick = max(1, round(width * side))
    canvas = Image.new("1", (breadth, height))
    draw = ImageDraw.Draw(canvas)
    while np.asarray(canvas).mean() < share:
        at, angle = rng.uniform((0, 0), (breadth, height)), rng.uniform(0, 2 * math.pi)
        for _ in range(rng.integers(1, 5)):
            angle += rng.uniform(-2 * math.pi / 5, 2 * math.pi / 5)
            to = at + rng.uniform(0.1, 0.3) * side * np.array([math.cos(angle), math.sin(angle)])
            to = to.clip(0, (breadth - 1, height - 1))
            draw.line([*at, *to], fill=1, width=thick)
            draw.circle(tuple(to), thick / 2, fill=1)
            at = to
    return np.asarray(canvas)


SHAPES: dict[Shape, Callable[[Size, np.random.Generator], Mask]] = {
    "half": half,
    "wide": partial(strokes, width=0.18, share=0.35),
    "narrow": partial(strokes, width=0.05, share=0.2),
    "lines": lines,
    "expand": expand,
    "super_resolution": super_resolution,
    "centre": centre,
}
"""What draws each shape, given height, width and a random generator."""


def mask_shape(name: Shape, size: Size, rng: np.random.Generator) -> Mask:
    """Draws a mask by name; only `wide` and `narrow` take random numbers from `rng`.

    Raises `ValueError` for an unknown name, and for less than 4 × 4 pixels.
    """
    if name not in SHAPES:
        raise ValueError(f"{name!r} is not a mask shape; allowed are {', '.join(SHAPES)}")
    if min(size) < 4:
        raise ValueError(f"a mask of {size[0]} × {size[1]} pixels: 4 × 4 are the smallest")
    return SHAPES[name](size, rng)


class MaskRules(Section):
    """What the pixels of a mask file mean."""

    channel: Channel | None = None
    """What of a mask file counts: its brightness (`luma`), its `alpha` (what is opaque changes), its `transparency`
    (what is transparent changes), or the `index` of its palette. Without it the brightness counts, and a mask with
    transparent pixels is refused."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Takes masks with values between black and white: what is at least so bright, from 0 to 1, changes. Without it
    such masks are refused."""


def binary(values: NDArray[Any], threshold: float | None = None) -> Mask:
    """The mask of values `[H, W]`, numbers of any type: True where they are not 0.

    There are 0 and one other value, 1, 255 or 65535. With `threshold`, others are allowed, too: then True stands where
    a value has at least that share of the largest of its type (1 in floating point). Raises `ValueError` for other
    shapes and values.
    """
    if values.ndim != 2:
        raise ValueError(f"a mask has one channel, this image has shape {' × '.join(map(str, values.shape))}")
    found = np.unique(values)
    if any(set(found.tolist()) <= {0, white} for white in WHITES):
        return values > 0
    if threshold is None:
        raise ValueError(
            f"the mask is not binary: it has {len(found)} values from {found[0]:g} to {found[-1]:g}; allowed are 0 "
            "(keep) and one of 1, 255 and 65535 (change), and others with mask.threshold"
        )
    whole = {"u1": 255, "u2": 65535, "f4": 1}.get(values.dtype.str[1:])
    if whole is None or found[0] < 0 or found[-1] > whole:
        raise ValueError(
            f"the mask has values from {found[0]:g} to {found[-1]:g}; mask.threshold needs numbers of 8 or 16 bits "
            "from 0 on, or floating point from 0 to 1"
        )
    return values >= threshold * whole
