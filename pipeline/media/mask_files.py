"""Mask files: which of their pixels change. Nothing of a picture is done to them: no profile, no scaling of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.media.fitting import Fit, fitted
from pipeline.media.masks import MaskRules, binary
from pipeline.media.opening import Undecodable, reading

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


def decode_mask(
    data: bytes, full: tuple[int, int], size: tuple[int, int], fit: Fit = "resize", rules: MaskRules | None = None
) -> Pixels8:
    """Decodes the mask of an image to uint8 `[H, W]` of 0 and 1, fitted to `size` (height, width) like the image.

    The mask has the size of the image, `full` (width, height), or the model's `size`. Raises `Undecodable` for another
    size, for values that `rules` do not allow, and where it is not clear which channel is meant.
    """
    rules = rules or MaskRules()
    with reading(data) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.size not in (full, size[::-1]):
            allowed = f"{full[0]} × {full[1]}, the image's, or {size[1]} × {size[0]}, the model's"
            raise Undecodable(f"the mask measures {image.width} × {image.height}; allowed is {allowed}")
        try:
            mask = Image.fromarray(binary(_values(image, rules), rules.threshold).astype(np.uint8))
        except ValueError as error:
            hint = "; mask.channel: index takes the numbers of its palette" if _by_colours(image, rules) else ""
            raise Undecodable(f"{error}{hint}") from None
    return fitted(mask, size, fit if image.size == full else "resize", Image.Resampling.NEAREST)[0][..., 0]


def _values(image: Image.Image, rules: MaskRules) -> NDArray[Any]:
    if rules.channel == "index":
        if image.mode != "P":
            raise ValueError(f"mask.channel: index, and the mask has no palette (its mode is {image.mode})")
        return np.asarray(image)
    alpha = np.asarray(image.convert("RGBA").getchannel("A")) if image.has_transparency_data else None
    if rules.channel in ("alpha", "transparency"):
        if alpha is None:
            raise ValueError(f"mask.channel: {rules.channel}, and the mask has no alpha (its mode is {image.mode})")
        return alpha if rules.channel == "alpha" else 255 - alpha
    if rules.channel is None and alpha is not None and alpha.min() < 255:
        raise ValueError(
            "the mask has transparent pixels, and mask.channel does not say what they mean; allowed are alpha (opaque "
            "pixels change), transparency (transparent pixels change) and luma (white pixels change)"
        )
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode in ("LA", "La"):
        return np.asarray(image.convert("LA").getchannel("L"))
    opaque = image.convert("RGBA") if image.has_transparency_data else image  # converting to L would lay it over black
    return np.asarray(opaque.convert("RGB").convert("L"))


def _by_colours(image: Image.Image, rules: MaskRules) -> bool:
    return image.mode == "P" and rules.channel is None
