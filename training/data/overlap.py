"""Images that a denoiser was trained on must be neither validated nor tested on: keys, contents and looks tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.media.looks import BITS, NEAR_BITS, looks_of, near_copies
from pipeline.models.training_set import FILE
from pipeline.tensors import write_tensors
from training.data.cache import PixelCache
from training.data.images import Images, key_marks, pixel_marks

NEAR_SHARE = 0.01
"""The fraction of a set that may be near-copies of training images, by default. In sets that are apart there are a few
by chance, and some that stand in both under two names."""

log = logging.getLogger("doppel")


def write_training_set(cache: PixelCache, folder: Path) -> None:
    """Writes what `marks_of` says of the training images into `folder`."""
    write_tensors(marks_of(cache.keys, cache.images()), folder / FILE)


def marks_of(keys: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
    """What tells images uint8 `[N, 3, H, W]`: hashes of `keys` and `contents`, int64 `[N]` each, and `looks`."""
    return {"keys": key_marks(keys), "contents": pixel_marks(pixels), "looks": looks_of(pixels)}


def refuse_overlap(
    model: str, trained_on: dict[str, Tensor], splits: dict[str, Images], allowed: float = NEAR_SHARE
) -> None:
    """Raises `UserError` where an image of a split was among those that `model` was trained on.

    So it does where more than the fraction `allowed` of a split are near-copies of such images. Fewer are said.
    """
    for name, images in splits.items():
        marks = marks_of(images.keys, images.pixels)
        for what in ("keys", "contents"):
            shared = torch.isin(marks[what], trained_on[what])
            if bool(shared.any()):
                raise UserError(
                    f"{name}: {int(shared.sum())} of {len(images)} images are in the training set of {model} by their "
                    f"{what}, the first is {first(images, shared)!r}; what it is measured on, it must not have seen"
                )
        if "looks" not in trained_on:
            log.warning(
                "%s: the folder of %s does not say how its training images look, so near-copies of them "
                "are not found; name them in the recipe, or train it again", name, model
            )  # fmt: skip
            continue
        near = near_copies(marks["looks"], trained_on["looks"])
        if not bool(near.any()):
            continue
        found = (
            f"{name}: {int(near.sum())} of {len(images)} images are near-copies of some in the training set of {model} "
            f"(at most {NEAR_BITS} of {BITS} bits of a perceptual hash differ), the first is {first(images, near)!r}"
        )
        if int(near.sum()) > allowed * len(images):
            raise UserError(f"{found}; near_copies allows {allowed:.1%}")
        log.warning("%s; near_copies allows them", found)


def first(images: Images, chosen: Tensor) -> str:
    """The key of the first image that is chosen, by bool `[N]`."""
    return images.keys[int(chosen.nonzero()[0])]
