"""Thirty-five ways to make a photograph look different that a person, or a script, undoes or sees through."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter, map_coordinates

Pixels = NDArray[np.uint8]


def _pillow(change: Callable[[Image.Image], Image.Image]) -> Callable[[Pixels], Pixels]:
    return lambda image: np.ascontiguousarray(np.asarray(change(Image.fromarray(image)).convert("RGB")))


def _jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return _pillow(change)


def _turned(degrees: float) -> Callable[[Pixels], Pixels]:
    return _pillow(lambda image: image.rotate(degrees, Image.Resampling.BICUBIC))


def _pixelated(size: int) -> Callable[[Pixels], Pixels]:
    """To `size` pixels in all, whatever the image's own size, and back."""
    return _pillow(
        lambda image: image.resize((size, size), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)
    )


def _zoomed(part: float) -> Callable[[Pixels], Pixels]:
    def change(image: Image.Image) -> Image.Image:
        edge = round((1 - part) / 2 * image.width)
        return image.resize(image.size, Image.Resampling.BICUBIC, (edge, edge, image.width - edge, image.height - edge))

    return _pillow(change)


def _noise(deviation: float) -> Callable[[Pixels], Pixels]:
    def change(image: Pixels) -> Pixels:
        noise = np.random.default_rng(0).normal(0, deviation, image.shape)
        return np.clip(image + noise, 0, 255).round().astype(np.uint8)

    return change


def _warped(strength: float) -> Callable[[Pixels], Pixels]:
    """A smooth random field moves pixels by up to about `strength` of the image's side."""

    def change(image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        rng = np.random.default_rng(0)
        field = np.stack([gaussian_filter(rng.normal(size=(height, width)), height / 10) for _ in range(2)])
        field *= strength * height / np.abs(field).max()
        at = np.indices((height, width)) + field
        moved = [map_coordinates(image[..., c].astype(float), at, order=1, mode="nearest") for c in range(3)]
        return np.stack(moved, -1).round().astype(np.uint8)

    return change


def _bar(top: float, bottom: float, colour: int) -> Callable[[Pixels], Pixels]:
    """A bar across the face; the eyes of a centred face are at about .45 of the height."""

    def change(image: Pixels) -> Pixels:
        barred, side = image.copy(), len(image)
        barred[round(top * side) : round(bottom * side), round(0.2 * side) : round(0.8 * side)] = colour
        return barred

    return change


def _sunglasses(image: Pixels) -> Pixels:
    y, x = np.indices(image.shape[:2]) / len(image)
    glasses = [np.hypot((x - at) / 0.11, (y - 0.44) / 0.075) < 1 for at in (0.37, 0.63)]
    return np.where((glasses[0] | glasses[1])[..., None], np.uint8(15), image)


def _shifted(image: Pixels) -> Pixels:
    step = len(image) // 10
    return np.ascontiguousarray(np.pad(image, ((step, 0), (0, step), (0, 0)), "edge")[: len(image), step:])


def _stretched(image: Pixels) -> Pixels:
    side = len(image)
    wide = Image.fromarray(image).resize((round(1.25 * side), side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(wide)[:, round(0.125 * side) :][:, :side])


def _hue(image: Image.Image) -> Image.Image:
    bands = image.convert("HSV").split()
    return Image.merge("HSV", (bands[0].point(lambda h: (h + 90) % 256), *bands[1:])).convert("RGB")


DISGUISES: dict[str, Callable[[Pixels], Pixels]] = {
    "identity": lambda image: image,
    "mirror": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "brighter": lambda image: np.clip(image * 1.15 + 8, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "more contrast": _pillow(lambda image: ImageEnhance.Contrast(image).enhance(1.6)),
    "less contrast": _pillow(lambda image: ImageEnhance.Contrast(image).enhance(0.5)),
    "grey": _pillow(ImageOps.grayscale),
    "swapped channels": lambda image: np.ascontiguousarray(image[..., ::-1]),
    "hue": _pillow(_hue),
    "small blur": _pillow(lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 90))),
    "blur": _pillow(lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 50))),
    "sharpened": _pillow(lambda image: image.filter(ImageFilter.UnsharpMask(2, 200, 0))),
    "JPEG 75": _jpeg(75),
    "JPEG 30": _jpeg(30),
    "JPEG 5": _jpeg(5),
    "turned 10": _turned(10),
    "turned -15": _turned(-15),
    "turned 25": _turned(25),
    "quarter turn": lambda image: np.ascontiguousarray(np.rot90(image)),
    "three quarter turns": lambda image: np.ascontiguousarray(np.rot90(image, 3)),
    "half turn": lambda image: np.ascontiguousarray(np.rot90(image, 2)),
    "upside down": lambda image: np.ascontiguousarray(image[::-1]),
    "negative": lambda image: 255 - image,
    "zoomed in": _zoomed(0.85),
    "shifted": _shifted,
    "stretched": _stretched,
    "pixelated 32": _pixelated(32),
    "little noise": _noise(10),
    "noise": _noise(25),
    "posterised": _pillow(lambda image: ImageOps.posterize(image, 2)),
    "solarised": _pillow(lambda image: ImageOps.solarize(image, 128)),
    "sunglasses": _sunglasses,
    "bar over the eyes": _bar(0.38, 0.52, 0),
    "warped": _warped(0.03),
    "strongly warped": _warped(0.06),
}
"""By name: changes uint8 RGB `[S, S, 3]`, a portrait with the face in its middle, into another of that shape."""
assert len(DISGUISES) == 35
