"""Bringing images and frames of clips to a model's size, and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import AfterValidator

from pipeline.media.frame import Box, Frame

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


def _known_fit(fit: str) -> str:
    if not re.fullmatch("resize|crop|pad|centre [1-9][0-9]{0,4}", fit):
        raise ValueError("allowed are resize, crop, pad and 'centre PIXELS'")
    return fit


Fit = Annotated[str, AfterValidator(_known_fit)]
"""How an image is brought to another size: `resize`, `crop`, `pad` or `centre PIXELS`; see `decode`."""


def fitted(
    image: Image.Image, size: tuple[int, int] | None, fit: Fit, resampling: Image.Resampling
) -> tuple[Pixels8, Box, Box]:
    """Fits an image to `size` (height, width): uint8 RGB `[H, W, 3]`, the part of it that is seen, and its place.

    The last two are `window` and `box` of a `Frame`.
    """
    if size is None:
        return _rgb(image), (0, 0, *image.size), (0, 0, *image.size)
    target = size[1], size[0]
    window, box = (0, 0, *image.size), (0, 0, *target)
    if fit.startswith(("crop", "centre")):
        side = min(image.width / target[0], image.height / target[1])
        if fit != "crop":
            side = min(side, int(fit.split()[1]) / min(target))
        seen = max(1, round(target[0] * side)), max(1, round(target[1] * side))
        left, top = (image.width - seen[0]) // 2, (image.height - seen[1]) // 2
        window = (left, top, left + seen[0], top + seen[1])
        image = image.crop(window)
    elif fit == "pad":
        scale = min(target[0] / image.width, target[1] / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        left, top = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
    image = resized(image, (box[2] - box[0], box[3] - box[1]), resampling)
    margins = (box[1], target[1] - box[3]), (box[0], target[0] - box[2])
    pixels = np.pad(_rgb(image), (*margins, (0, 0)), mode="edge") if fit == "pad" else _rgb(image)
    return pixels, window, box


def resized(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The image at `size` (width, height); itself where it has that size."""
    return image if image.size == size else image.resize(size, resampling)


def framed(image: Image.Image, orientation: int, size: tuple[int, int] | None, fit: Fit) -> tuple[Pixels8, Frame]:
    """Fits an upright image to `size` (height, width), and says how; `orientation` is the one it had in its file."""
    pixels, window, box = fitted(image, size, fit, Image.Resampling.BICUBIC)
    output = box[2] - box[0], box[3] - box[1]
    mode: Literal["L", "RGB"] = "L" if image.mode == "L" else "RGB"
    return pixels, Frame(mode=mode, orientation=orientation, full=image.size, window=window, box=box, output=output)


def fit_frame(picture: Pixels8, size: tuple[int, int] | None, fit: Fit) -> tuple[Pixels8, Frame]:
    """Fits a frame uint8 `[H, W, 3]` to `size` (height, width), just as `decode` fits an image."""
    return framed(Image.fromarray(picture), 1, size, fit)


def unfitted(pixels: Pixels8, frame: Frame) -> Image.Image:
    """The output that a model's image uint8 `[H, W, 3]` becomes: without margins, in the size of the output."""
    left, top, right, bottom = frame.box
    return resized(Image.fromarray(pixels[top:bottom, left:right]), frame.output)


def _rgb(image: Image.Image) -> Pixels8:
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
