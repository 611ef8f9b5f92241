"""Embedded colour profiles (ICC): what they say of a file's numbers, as sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SAME = 1
"""Grey levels by which a profile may differ from sRGB and still be taken for it."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An image in mode L, RGB or CMYK, whose numbers mean what `profile` says, in sRGB: mode L or RGB.

    An image that is in sRGB already comes back as it is. None where the profile is damaged, or of other channels.
    """
    try:
        transform = _transform(profile, image.mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if transform is None:
        return image
    seen = ImageCms.applyTransform(image, transform)
    assert seen is not None
    return seen.convert("L") if image.mode == "L" else seen


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None where it leads to the same numbers."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, 256 if mode == "L" else 9).round().astype(np.uint8)
    grid = steps[None] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    before = Image.fromarray(grid)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    change = np.asarray(after).astype(int) - np.asarray(before.convert("RGB"))
    return None if np.abs(change).max() <= SAME else transform
