"""Any configured data set, decoded once into a memory-mapped uint8 array that training reads in random order."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import decode
from pipeline.media.records import Rejected, Sample
from pipeline.media.rules import PixelRules
from pipeline.plain_json import read_json_file
from pipeline.source_code import code_hash
from pipeline.streams import AnyInput
from pipeline.streams.pages import paged

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.media.records import Pixels8

EXAMPLES = 3
"""Labels that cannot be read, of those that a message shows."""
CHUNK = 1024
"""Samples that are decoded at a time."""
FACTS, PIXELS, LABELS, KEYS = "cache.json", "pixels.raw", "labels.npy", "keys.json"
"""The files of a cache."""


class PixelCache:
    """N images as `pixels` uint8 `[N, H, W, 3]` (mapped from disk), `labels` int64 `[N]`, −1 for none, and `keys`."""

    def __init__(self, folder: Path) -> None:
        """Maps a folder that `build_cache` made. Raises `UserError` or `ValueError` for one that is damaged."""
        self.facts = read_json_file(folder / FACTS)
        shape = (self.facts["images"], *self.facts["size"], 3)
        self.pixels: NDArray[np.uint8] = np.memmap(folder / PIXELS, dtype=np.uint8, mode="r", shape=shape)
        self.labels: NDArray[np.int64] = np.load(folder / LABELS)
        self.keys: list[str] = json.loads((folder / KEYS).read_bytes())
        if not len(self.keys) == len(self.labels) == len(self.pixels):
            raise ValueError(f"{len(self.keys)} keys, {len(self.labels)} labels and {len(self.pixels)} images")

    def __len__(self) -> int:
        return len(self.labels)

    def unread(self) -> str:
        """What stands in the place of labels that cannot be read, as the end of a sentence; empty where all can."""
        found = ", ".join(map(repr, self.facts["unread"]))
        return f"; some labels cannot be read, such as {found} (see label_names)" if found else ""

    def images(self) -> Tensor:
        """All images in memory, uint8 `[N, 3, H, W]`."""
        import torch

        return torch.from_numpy(self.pixels.transpose(0, 3, 1, 2).copy())


def build_cache(source: AnyInput, folder: Path, size: tuple[int, int], rules: PixelRules) -> PixelCache:
    """Decodes `source` into `folder`, or opens what an earlier run left there for the same content, size and rules.

    `size` is (height, width). Raises `UserError` where no image can be read.
    """
    stream = paged(source.open(), rules.frames)
    marks = [shard.fingerprint() for shard in stream.shards]
    read = [source.model_dump(mode="json"), marks, size, rules.model_dump(mode="json")]
    identity = json.dumps([code_hash(__name__), *read])
    key = hashlib.sha256(identity.encode()).hexdigest()
    facts_file = folder / FACTS
    if (kept := _kept(folder, key)) is not None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    facts_file.unlink(missing_ok=True)

    def decoded(sample: Sample | Rejected) -> tuple[str, Pixels8, int] | None:
        if isinstance(sample, Rejected):
            return None
        try:
            pixels, _ = decode(sample.image, size, rules)
            if sample.unread is not None and len(unread) < EXAMPLES:
                unread[sample.unread.text[:40]] = None
            return sample.full_key, pixels, -1 if sample.label is None else sample.label
        except Undecodable:
            return None

    samples = chain.from_iterable(shard.read() for shard in stream.shards)
    keys: list[str] = []
    labels: list[int] = []
    rejected, unread = 0, dict[str, None]()
    with ThreadPoolExecutor() as pool, open(folder / PIXELS, "wb") as file:
        while chunk := list(islice(samples, CHUNK)):
            for row in pool.map(decoded, chunk):
                if row is None:
                    rejected += 1
                else:
                    name, pixels, label = row
                    file.write(pixels.tobytes())
                    keys.append(name)
                    labels.append(label)
    if not labels:
        raise UserError(f"data: no image could be read ({rejected} rejected)")
    np.save(folder / LABELS, np.array(labels, dtype=np.int64))
    (folder / KEYS).write_text(json.dumps(keys))
    facts = {
        "key": key, "images": len(labels), "rejected": rejected, "size": size, "label_names": stream.label_names,
        "unread": list(unread),
    }  # fmt: skip
    part = folder / f"{FACTS}.part"
    part.write_text(json.dumps(facts, indent=2))
    part.replace(facts_file)  # the last: without it the cache does not count
    return PixelCache(folder)


def _kept(folder: Path, key: str) -> PixelCache | None:
    """What an earlier run left for the same content; what is damaged counts for nothing."""
    if not (folder / FACTS).exists():
        return None
    try:
        cache = PixelCache(folder)
    except (UserError, OSError, EOFError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return cache if cache.facts.get("key") == key else None
