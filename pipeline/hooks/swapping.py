"""The choice between an original and its neighbours: made by a hash, counted, and shared by all workers of a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch.utils.data import get_worker_info

from pipeline.errors import UserError
from pipeline.hooks.draws import PROCESSES, Draws, own_row
from pipeline.hooks.items import Key, key_of, swapped
from pipeline.hooks.store import Store, Weighted

COUNTED = ("originals", "neighbours", "missing")
"""What is counted. `missing` items are given as originals, too: a neighbour was due, and the store had none."""

Swap = Callable[[Any, Image.Image], Any]
"""Puts a neighbour into an item, in place of its image."""


class Swapping:
    """Puts neighbours in the place of images.

    Counts lie in shared memory, as do the draws' epoch and seeds, so that what is set here reaches workers that already
    run.
    """

    def __init__(self, store: Store, p: float, copies: int | None, draws: Draws, key: Key, swap: Swap | None) -> None:
        """Raises `UserError` where `p` is no probability or `copies` is below 1; `copies` None means all there are."""
        if not 0 <= p <= 1:
            raise UserError(f"p is {p}; a probability in [0, 1] is expected")
        if copies is not None and copies < 1:
            raise UserError(f"copies is {copies}; at least 1 is expected, or None for all there are")
        self.store, self.p, self.copies, self.draws = store, p, copies, draws
        self.key, self.swap = key, swap or swapped
        self._weighted = store if isinstance(store, Weighted) else None
        self._counts = torch.zeros(PROCESSES, len(COUNTED), dtype=torch.int64).share_memory_()

    def __call__(self, item: Any, draw: tuple[int, int], *index: int) -> Any:
        """Gives the item, or the item with a neighbour in it; `draw` is the number of the draw, see `Draws`."""
        key = key_of(self.key, item, *index)
        due, which, taken = self.draws.uniforms(key, *draw)
        neighbour, counted = None, "originals"
        if due < self.p:
            neighbour, counted = self._neighbour(key, which, taken)
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

    def counts(self) -> dict[str, int]:
        """Counts by the names in `COUNTED`, over all workers, since the beginning."""
        return dict(zip(COUNTED, self._counts.sum(0).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The state of the draws, and counts: in a worker its own counts, elsewhere those of all."""
        counts = self._counts.sum(0) if get_worker_info() is None else self._counts[own_row()]
        return {**self.draws.state_dict(), "counts": counts.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up draws and counts of a `state_dict`."""
        self.draws.load_state_dict(state)
        if get_worker_info() is None:
            self._counts.zero_()
        self._counts[own_row()] = torch.tensor(state["counts"])
