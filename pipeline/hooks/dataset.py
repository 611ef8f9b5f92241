"""Data sets that give an image or one of its stored neighbours; both can be resumed in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from pipeline.hooks.items import Key
from pipeline.hooks.store import Store
from pipeline.hooks.swapping import Swap, Swapping

Transform = Callable[[Any], Any]


class AugmentedDataset(Dataset[Any]):
    """`base[i]`, or with probability `p` the same with one of the first `copies` neighbours of its image.

    Seeded by epoch and index: workers and order change nothing. Items are `(image, label, …)` or dicts (Hugging Face,
    WebDataset); others need `swap(item, neighbour)`. `key` says what an item was called in the job's input: by default
    its field `__key__` or `key`, else `"{:05d}"` (of the index), `"{id}"` (of its fields), or a function of item and
    index. Images must not be normalised yet: `transform` gets the item after the swap.
    """

    def __init__(
        self, base: Any, store: Store, p: float = 0.5, copies: int | None = None, *, seed: int = 0, key: Key = None,
        swap: Swap | None = None, transform: Transform | None = None,
    ) -> None:  # fmt: skip
        self.base, self.transform = base, transform
        self._swapping = Swapping(store, p, copies, seed, key, swap)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        index = int(index) if index >= 0 else len(self) + int(index)
        item = self._swapping(self.base[index], index)
        return item if self.transform is None else self.transform(item)

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; reaches workers that run already (`persistent_workers`), and a base that has epochs."""
        self._swapping.set_epoch(epoch)
        tell(self.base, epoch)

    @property
    def counts(self) -> dict[str, int]:
        """Originals, neighbours, and originals for want of a neighbour (missing), over all workers."""
        return self._swapping.counts()

    def state_dict(self) -> dict[str, Any]:
        return self._swapping.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._swapping.load_state_dict(state)


class AugmentedStream(IterableDataset[Any]):
    """The same for what can only be iterated: WebDataset pipelines, Hugging Face streams, any iterable of items.

    Seeded by epoch and key. Wrap the whole pipeline, its decoding included; `key` is as for `AugmentedDataset`, but of
    the item alone. To resume, the base's own state is used where it has one; else the items that were seen are skipped,
    so the base must give them in the same order again.
    """

    def __init__(
        self, base: Iterable[Any], store: Store, p: float = 0.5, copies: int | None = None, *, seed: int = 0,
        key: Key = None, swap: Swap | None = None, transform: Transform | None = None,
    ) -> None:  # fmt: skip
        self.base, self.transform = base, transform
        self._swapping = Swapping(store, p, copies, seed, key, swap)
        self._seen = self._skip = 0

    def __iter__(self) -> Iterator[Any]:
        skip, self._skip = self._skip, 0
        self._seen = skip
        return self._items(0 if is_stateful(self.base) else skip)

    def _items(self, skip: int) -> Iterator[Any]:
        for item in islice(self.base, skip, None):
            self._seen += 1
            item = self._swapping(item)
            yield item if self.transform is None else self.transform(item)

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch; see `AugmentedDataset`."""
        self._swapping.set_epoch(epoch)
        tell(self.base, epoch)

    @property
    def counts(self) -> dict[str, int]:
        """See `AugmentedDataset`."""
        return self._swapping.counts()

    def state_dict(self) -> dict[str, Any]:
        base = self.base.state_dict() if is_stateful(self.base) else None  # type: ignore[attr-defined]
        return {**self._swapping.state_dict(), "seen": self._seen, "base": base}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._swapping.load_state_dict(state)
        self._skip = self._seen = state["seen"]
        if state["base"] is not None:
            tell(self.base, state["epoch"])
            self.base.load_state_dict(state["base"])  # type: ignore[attr-defined]


def is_stateful(base: object) -> bool:
    return hasattr(base, "state_dict") and hasattr(base, "load_state_dict")


def tell(base: object, epoch: int) -> None:
    if hasattr(base, "set_epoch"):
        base.set_epoch(epoch)
