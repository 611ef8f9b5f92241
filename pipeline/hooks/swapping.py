"""The choice between an original and its neighbours: made by a hash, counted, and shared by all workers of a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import get_worker_info

from pipeline.errors import UserError
from pipeline.hooks.contents import content_of
from pipeline.hooks.draws import PROCESSES, Draws, own_row
from pipeline.hooks.items import Key, has_key, key_of, swapped
from pipeline.hooks.placing import Framed, placed
from pipeline.hooks.sources import SourceCheck, Sourced, key_by_content
from pipeline.hooks.store import NeighbourStore, Store, Weighted

FEWEST = 3
"""So many misses, at least, tell that items are told in a wrong way, where all of a pass were missing."""
FIRST_MISSES, FIRST_OF_STREAM = 32, 1024
"""Where so many first items have no neighbour in a finished store, items are told in a wrong way; of a stream, whose
length is unknown, more are asked for."""
COUNTED = ("originals", "neighbours", "missing")
"""What is counted. `missing` items are given as originals, too: a neighbour was due, and the store had none."""

Swap = Callable[[Any, Image.Image], Any]
"""Puts a neighbour into an item, in place of its image."""


class Name(NamedTuple):
    """What tells an item."""

    text: str
    """The key, or the hash of the content."""
    is_content: bool


class Swapping:
    """Puts neighbours in the place of images.

    Counts lie in shared memory, as do the draws' epoch and seeds, so that what is set here reaches workers that already
    run.
    """

    def __init__(
        self, store: Store, p: float, copies: int | None, draws: Draws, key: Key, swap: Swap | None,
        check: bool, size: int | None,
    ) -> None:  # fmt: skip
        """Raises `UserError` where `p` is no probability or `copies` is below 1; `copies` None means all there are.

        `size` is how many items there are, where that is known.
        """
        if not 0 <= p <= 1:
            raise UserError(f"p is {p}; a probability in [0, 1] is expected")
        if copies is not None and copies < 1:
            raise UserError(f"copies is {copies}; at least 1 is expected, or None for all there are")
        self.store, self.p, self.copies, self.draws = store, p, copies, draws
        self.key, self.swap = key, swap or swapped
        self._framed = store if isinstance(store, Framed) and swap is None else None
        self._weighted = store if isinstance(store, Weighted) else None
        self._sourced = store if isinstance(store, Sourced) and store.knows_contents else None
        self._check = SourceCheck(self._sourced) if self._sourced is not None and check else None
        self._last: Name | None = None
        """The last item that was missing."""
        self._patience = patience(store, size)
        self._counts = torch.zeros(PROCESSES, len(COUNTED), dtype=torch.int64).share_memory_()

    def __call__(self, item: Any, draw: tuple[int, int], *index: int) -> Any:
        """Gives the item, or the item with a neighbour in it; `draw` is the number of the draw, see `Draws`.

        Raises `UserError` where the item has no key, or its key is that of another image, or no key is in the store.
        """
        name = self._name(item, *index)
        due, which, taken = self.draws.uniforms(name.text, *draw)
        neighbour, counted = None, "originals"
        if due < self.p:
            key = name.text if not name.is_content else self._by_content(item, name.text)
            neighbour, counted = (None, "missing") if key is None else self._neighbour(key, which, taken)
            if neighbour is not None and self._check is not None and key is not None and not name.is_content:
                self._check(item, key)
            if neighbour is not None and key is not None:
                neighbour = self._placed(neighbour, item, key)
        self._counts[own_row(), COUNTED.index(counted)] += 1
        if counted == "missing":
            self._last = name
            if self._patience is not None:
                self._lose_patience(name, self._patience)
        return item if neighbour is None else self.swap(item, neighbour)

    def _name(self, item: Any, *index: int) -> Name:
        """What tells the item: its key or, where it has none, the content of its image."""
        if self._sourced is None or has_key(self.key, item):
            return Name(key_of(self.key, item, *index), False)
        content = content_of(item)
        if content is None:
            raise UserError(
                "items have no key, and their images cannot be told by their content: an item begins with a PIL image, "
                "or uint8 or floats in [0, 1], or say with key how the input of the job names them"
            )
        return Name(content, True)

    def _placed(self, neighbour: Image.Image, item: Any, key: str) -> Image.Image:
        frame = None if self._framed is None else self._framed.frame(key)
        source = None if self._sourced is None else self._sourced.source(key)
        return neighbour if frame is None else placed(neighbour, item, frame, source)

    def _by_content(self, item: Any, content: str) -> str | None:
        assert self._sourced is not None
        return key_by_content(self._sourced, content, item)

    def _neighbour(self, key: str, which: float, taken: float) -> tuple[Image.Image | None, str]:
        count = self.store.copies(key)
        count = count if self.copies is None else min(count, self.copies)
        copy = int(which * count)
        if count and self._weighted is not None and taken >= self._weighted.weight(key, copy):
            return None, "originals"
        neighbour = self.store.get(key, copy) if count else None
        return neighbour, "missing" if neighbour is None else "neighbours"

    def end_pass(self) -> None:
        """Raises `UserError` where all items whose neighbours were due were missing in the store of a complete job."""
        if self._last is not None and isinstance(self.store, NeighbourStore) and self.store.complete:
            self._lose_patience(self._last, FEWEST)

    def _lose_patience(self, name: Name, patience: int) -> None:
        """Raises `UserError` where every first item was missing."""
        counts = self.counts()
        if counts["neighbours"] or counts["missing"] < patience:
            return
        assert isinstance(self.store, NeighbourStore)
        none = f"none of the first {counts['missing']} items has a neighbour in the store"
        if name.is_content:
            raise UserError(
                f"{none}, which knows its sources by their pixels: give the images as the job read them, in their full "
                "size, and change them in transform; or say with key how the input of the job names them"
            )
        held = f" such as {name.text!r}; the store has keys such as {self.store.example()!r}" if self._sourced else ""
        raise UserError(f"{none}: key gives others than the input of the job has{held}")

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


def patience(store: Store, size: int | None) -> int | None:
    """How many first items may be missing, of `size`; None for a store that is still being filled.

    More are missing than the job may have left undone.
    """
    if not isinstance(store, NeighbourStore):
        return None
    return FIRST_OF_STREAM if size is None else min(size, max(FIRST_MISSES, size - store.sources + 1))
