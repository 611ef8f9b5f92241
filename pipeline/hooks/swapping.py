"""The choice between an original and its neighbours: made by a hash, counted, and shared by all workers of a loader."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch.utils.data import get_worker_info

from pipeline.errors import UserError
from pipeline.hooks.items import Key, key_of, swapped
from pipeline.hooks.store import Store, Weighted

COUNTED = ("originals", "neighbours", "missing")
"""What is counted. `missing` items are given as originals, too: a neighbour was due, and the store had none."""
PROCESSES = 256
"""So many processes count separately; more would share a counter, and might miscount."""

Swap = Callable[[Any, Image.Image], Any]
"""Puts a neighbour into an item, in place of its image."""


class Swapping:
    """Puts neighbours in the place of images.

    Epoch and counts lie in shared memory, so that what is set here reaches workers that already run.
    """

    def __init__(self, store: Store, p: float, copies: int | None, seed: int, key: Key, swap: Swap | None) -> None:
        """Raises `UserError` where `p` is no probability or `copies` is below 1; `copies` None means all there are."""
        if not 0 <= p <= 1:
            raise UserError(f"p is {p}; a probability in [0, 1] is expected")
        if copies is not None and copies < 1:
            raise UserError(f"copies is {copies}; at least 1 is expected, or None for all there are")
        self.store, self.p, self.copies, self.seed = store, p, copies, seed
        self.key, self.swap = key, swap or swapped
        self._weighted = store if isinstance(store, Weighted) else None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._counts = torch.zeros(PROCESSES, len(COUNTED), dtype=torch.int64).share_memory_()

    def __call__(self, item: Any, *index: int) -> Any:
        """Gives the item, or the item with a neighbour in it.

        The choice depends only on seed, epoch and index or, where there is no index, the item's key.
        """
        place = index[0] if index else key_of(self.key, item)
        due, which, taken = uniforms(self.seed, self.epoch, place)
        neighbour, counted = None, "originals"
        if due < self.p:
            neighbour, counted = self._neighbour(key_of(self.key, item, *index), which, taken)
        self._counts[own_row(), COUNTED.index(counted)] += 1
        return item if neighbour is None else self.swap(item, neighbour)

    def _neighbour(self, key: str, which: float, taken: float) -> tuple[Image.Image | None, str]:
        count = self.store.copies(key)
        count = count if self.copies is None else min(count, self.copies)
        copy = int(which * count)
        if count and self._weighted is not None and taken >= self._weighted.weight(key, copy):
            return None, "originals"
        neighbour = self.store.get(key, copy) if count else None
        return neighbour, "missing" if neighbour is None else "neighbours"

    @property
    def epoch(self) -> int:
        """The number of the epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch for this process and all workers."""
        self._epoch.fill_(epoch)

    def counts(self) -> dict[str, int]:
        """Counts by the names in `COUNTED`, over all workers, since the beginning."""
        return dict(zip(COUNTED, self._counts.sum(0).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Epoch and counts: in a worker its own counts, elsewhere those of all."""
        counts = self._counts.sum(0) if get_worker_info() is None else self._counts[own_row()]
        return {"epoch": self.epoch, "counts": counts.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up epoch and counts of a `state_dict`."""
        self.set_epoch(state["epoch"])
        if get_worker_info() is None:
            self._counts.zero_()
        self._counts[own_row()] = torch.tensor(state["counts"])


def uniforms(*parts: int | str) -> tuple[float, float, float]:
    """Three numbers in [0, 1) that are a hash of the parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=24).digest()
    due, which, taken = (int.from_bytes(digest[i : i + 8]) >> 11 for i in (0, 8, 16))
    return due / 2**53, which / 2**53, taken / 2**53


def own_row() -> int:
    """The row in which this process counts: 0 outside of workers."""
    info = get_worker_info()
    return 0 if info is None else 1 + info.id % (PROCESSES - 1)
