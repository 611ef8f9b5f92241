"""Images that a denoiser was trained on must be neither validated nor tested on: keys and contents are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.tensors import read_tensors, write_tensors
from training.data.cache import PixelCache
from training.data.images import Images, key_marks, pixel_marks

FILE = "training_set.safetensors"
"""The file in a model's folder that tells its training images."""


def write_training_set(cache: PixelCache, folder: Path) -> None:
    """Writes 64-bit hashes of each training image's key and decoded content, int64 `[N]` each, into `folder`."""
    write_tensors(marks_of(cache.keys, cache.images()), folder / FILE)


def marks_of(keys: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
    """The hashes of keys and contents of images uint8 `[N, 3, H, W]`, int64 `[N]` each."""
    return {"keys": key_marks(keys), "contents": pixel_marks(pixels)}


def read_training_set(folder: Path) -> dict[str, Tensor] | None:
    """The hashes of a model's training images; None where its folder says nothing of them."""
    return read_tensors(folder / FILE) if (folder / FILE).exists() else None


def refuse_overlap(model: str, trained_on: dict[str, Tensor], splits: dict[str, Images]) -> None:
    """Raises `UserError` where an image of a split was among those that `model` was trained on."""
    for name, images in splits.items():
        for what, marks in marks_of(images.keys, images.pixels).items():
            shared = torch.isin(marks, trained_on[what])
            if bool(shared.any()):
                first = images.keys[int(shared.nonzero()[0])]
                raise UserError(
                    f"{name}: {int(shared.sum())} of {len(images)} images are in the training set of "
                    f"{model} by their {what}, the first is {first!r}; what it is measured on, it must not have seen"
                )
