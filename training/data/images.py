"""A labelled data set in memory: keys, uint8 images and labels, with hashes that tell images apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.job.classes import listed
from pipeline.media.rules import PixelRules
from pipeline.streams import AnyInput
from training.data.cache import build_cache


@dataclass(frozen=True, kw_only=True)
class Images:
    """N images: `keys`, `pixels` uint8 `[N, 3, H, W]`, `labels` int64 `[N]`."""

    keys: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...] | None = None
    """The names of the labels' classes, by number, where the data set has any."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor) -> Images:
        """The given rows, int64 `[M]`, in their order."""
        return Images(
            keys=tuple(self.keys[i] for i in rows.tolist()), pixels=self.pixels[rows], labels=self.labels[rows],
            names=self.names,
        )  # fmt: skip


def load_images(source: AnyInput, folder: Path, size: tuple[int, int], rules: PixelRules, *, name: str) -> Images:
    """Decodes `source` by way of a cache in `folder`, at `size` (height, width); `name` is what messages call it.

    Raises `UserError` where a sample has no label, or one that cannot be read, or no image can be read.
    """
    cache = build_cache(source, folder, size, rules)
    labels = torch.from_numpy(cache.labels.copy())
    if bool((labels < 0).any()):
        raise UserError(f"{name}: {int((labels < 0).sum())} of {len(cache)} samples have no label{cache.unread()}")
    names = cache.facts["label_names"]
    return Images(
        keys=tuple(cache.keys), pixels=cache.images(), labels=labels, names=None if names is None else tuple(names)
    )


def same_classes(sets: Mapping[str, Sequence[str] | None]) -> None:
    """Raises `UserError` where two sets, by what messages call them, give different names to the same numbers.

    Sets without names are taken to count as the others do.
    """
    named = [(name, tuple(classes)) for name, classes in sets.items() if classes is not None]
    for name, classes in named[1:]:
        if classes != named[0][1]:
            raise UserError(
                f"{name} has the classes {listed(classes)}, {named[0][0]} has {listed(named[0][1])}: their numbers "
                "mean different things; give both the same label_names"
            )


def key_marks(keys: Iterable[str]) -> Tensor:
    """Hashes each key to 64 bits, int64 `[N]`."""
    return _marks(key.encode() for key in keys)


def pixel_marks(pixels: Tensor) -> Tensor:
    """Hashes each image of uint8 `[N, 3, H, W]` to 64 bits, int64 `[N]`."""
    return _marks(image.tobytes() for image in pixels.permute(0, 2, 3, 1).contiguous().numpy())


def _marks(contents: Iterable[bytes]) -> Tensor:
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests], dtype=torch.int64)
