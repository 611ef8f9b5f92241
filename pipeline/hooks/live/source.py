"""The originals that the maker reads, pass after pass: a configured input stream, or images already in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.job.classes import Classes
from pipeline.media.pixels import decode
from pipeline.media.records import Rejected
from pipeline.media.rules import PixelRules
from pipeline.streams import AnyInput
from pipeline.streams.contract import InputShard
from pipeline.streams.pages import paged

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


class Arrays(Protocol):
    """N images: `keys`, `pixels` uint8 `[N, 3, H, W]` in the size of the model, `labels` int64 `[N]`, −1 for none."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def pixels(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """Images in memory; the fields are those of `Arrays`."""

    keys: Sequence[str]
    pixels: Tensor
    labels: Tensor


class Original(NamedTuple):
    """An image that neighbours are made of, still to be decoded."""

    key: str
    label: int | None
    pixels: Callable[[], Pixels8]
    """Decodes it to uint8 RGB `[H, W, 3]`. Raises `Undecodable`."""


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """The originals of an input stream, read by `rules` and brought to `size` (height, width)."""

    input: AnyInput
    size: tuple[int, int]
    rules: PixelRules
    classes: Classes
    """What its classes are for the model."""

    def __call__(self) -> Iterator[Original]:
        """Yields the originals in one pass; members that form no sample are left out."""
        for shard in self._shards():
            for sample in shard.read():
                if not isinstance(sample, Rejected):
                    sample = self.classes.read(sample)
                    yield Original(sample.full_key, sample.label, partial(self._pixels, sample.image))

    def _shards(self) -> Sequence[InputShard]:
        return paged(self.input.open(), self.rules.frames).shards

    def facts(self) -> Any:
        """JSON that differs wherever the stream does."""
        marks = [shard.fingerprint() for shard in self._shards()]
        return [self.input.model_dump(mode="json"), marks, self.rules.model_dump(mode="json")]

    def _pixels(self, image: bytes) -> Pixels8:
        return decode(image, self.size, self.rules)[0]


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """The originals that `save_arrays` has left in a folder, for another process to map."""

    folder: Path

    def __call__(self) -> Iterator[Original]:
        """Yields the originals in one pass."""
        keys, labels = json.loads((self.folder / "keys.json").read_text()), np.load(self.folder / "labels.npy")
        images = np.load(self.folder / "images.npy", mmap_mode="r")
        for key, label, image in zip(keys, labels.tolist(), images, strict=True):
            yield Original(key, label, partial(np.moveaxis, np.asarray(image), 0, 2))


def save_arrays(arrays: Arrays, folder: Path) -> None:
    """Writes the arrays into `folder`, for `FileSource` to read."""
    (folder / "keys.json").write_text(json.dumps(list(arrays.keys)))
    np.save(folder / "labels.npy", arrays.labels.numpy())
    np.save(folder / "images.npy", arrays.pixels.numpy())


def check_arrays(arrays: Arrays, size: tuple[int, int], known: range | None, classes: Classes) -> None:
    """Raises `UserError` for arrays that do not belong together, or do not fit a model of this size and labels.

    `size` is (height, width); `known` are the labels that the model takes, None where it takes none, and `classes` say
    which of them those of the arrays are.
    """
    pixels, labels, keys = arrays.pixels, arrays.labels, arrays.keys
    if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, *size) or not len(pixels):
        raise UserError(
            f"data.pixels are {pixels.dtype} {list(pixels.shape)}; "
            f"the model takes torch.uint8 [N, 3, {size[0]}, {size[1]}], N ≥ 1"
        )
    if not len(keys) == len(labels) == len(pixels):
        raise UserError(f"data has {len(keys)} keys, {len(pixels)} images and {len(labels)} labels: one each is needed")
    if len(set(keys)) < len(keys):
        raise UserError(f"data.keys: only {len(set(keys))} of {len(keys)} are different; each image needs its own")
    for label in labels.unique().tolist():
        if known is not None and (why := classes.unknown(label, known)) is not None:
            raise UserError(f"data.labels: a label is {label}; {why}")


def array_facts(arrays: Arrays) -> Any:
    """JSON that differs wherever the arrays do."""
    digest = hashlib.blake2b(json.dumps(list(arrays.keys)).encode())
    digest.update(arrays.labels.to(torch.int64).contiguous().numpy().data)
    digest.update(arrays.pixels.contiguous().numpy().data)
    return digest.hexdigest()
