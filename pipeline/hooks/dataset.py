"""Data sets that give an image or one of its stored neighbours; both can be resumed in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from pipeline.hooks.draws import Draws, across_workers
from pipeline.hooks.items import Key
from pipeline.hooks.store import Store
from pipeline.hooks.swapping import Swap, Swapping

Transform = Callable[[Any], Any]


class AugmentedDataset(Dataset[Any]):
    """`base[i]`, or with probability `p` the same item with one of the first `copies` neighbours in place of its image.

    The choice depends on `seed`, epoch, key, and the number of the draw: its batch in the epoch and its place in that,
    whatever the number of workers. So an item that comes twice in an epoch (by a sampler with replacement, repeated
    augmentation or class balancing) is drawn for twice. `torch.manual_seed` and the rank of a distributed training are
    mixed in. Items are `(image, label, …)` or dicts (Hugging Face, WebDataset); others need `swap(item, neighbour)`.
    `key` tells what an item is called in the job's input: a format such as `"{id}"` (of its fields) or `"{:05d}"` (of
    the index), or a function of item and index. By default it is the item's field `__key__` or `key`; where there is
    none, the source is found by the content of the image, which must be what the job read, in full size. Images must
    not be normalised yet: `transform` is applied to the item after the swap. With `check`, the first items and then
    samples are compared with what the store knows of the images that its neighbours were made of.

    Wrap last: `AugmentedDataset(Subset(base, …))`, and no `Subset`, `ConcatDataset` or data set of your own around it.
    Those ask for single items, and keep its state from the loader, so that draws hang on the workers and a resumed
    training draws others; this is said once. What else an item holds stays true: a neighbour is turned as the image
    is, and one that shows a part of its source only is refused unless `swap` says how it is put in, or the item is
    image and label and the image has the proportions of that part.
    """

    def __init__(
        self, base: Any, store: Store, p: float = 0.5, copies: int | None = None, *, seed: int = 0, key: Key = None,
        swap: Swap | None = None, transform: Transform | None = None, check: bool = True,
    ) -> None:  # fmt: skip
        """Raises `UserError` where `p` is no probability or `copies` is below 1; `copies` None means all there are."""
        self.base, self.transform = base, transform
        size = len(base) if isinstance(base, Sized) else None
        self._draws = Draws(seed, size)
        self._swapping = Swapping(store, p, copies, self._draws, key, swap, check, size)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        """The item at `index`, which may be negative. Raises `UserError` where its key or image cannot be found."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of one batch, as torch's loaders ask for them."""
        self._draws.check_unwrapped(self)
        batch = self._draws.begin_batch(len(indices))
        return [self._item(index, (batch, place)) for place, index in enumerate(indices)]

    def _item(self, index: int, draw: tuple[int, int]) -> Any:
        index = int(index) if index >= 0 else len(self) + int(index)
        item = self._swapping(self.base[index], draw, index)
        return item if self.transform is None else self.transform(item)

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch; to be called before each one.

        It reaches workers that already run (`persistent_workers`), and a base that has epochs of its own. Raises
        `UserError` where no item of the epoch before has a neighbour in the store of a complete job.
        """
        self._swapping.end_pass()
        self._draws.set_epoch(epoch)
        tell(self.base, epoch)

    @property
    def counts(self) -> dict[str, int]:
        """How many items were given as `originals`, how many as `neighbours`, over all workers.

        `missing` items are originals that were given because no neighbour was there.
        """
        return self._swapping.counts()

    def state_dict(self) -> dict[str, Any]:
        """Epoch, torch's seed, number of the last draw, and the counts, for resuming."""
        return self._swapping.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self._swapping.load_state_dict(state)


class AugmentedStream(IterableDataset[Any]):
    """The same as `AugmentedDataset` for any iterable of items, such as WebDataset pipelines or Hugging Face streams.

    The number of a draw is the item's place in the stream of its worker, which hangs on the number of workers as the
    order does. Wrap the whole pipeline, its decoding included. `key` is as for `AugmentedDataset`, but of the item
    alone. Resuming uses the base's own state where it has one. Otherwise the items that were seen are skipped, so that
    the base must give them in the same order again.
    """

    def __init__(
        self, base: Iterable[Any], store: Store, p: float = 0.5, copies: int | None = None, *, seed: int = 0,
        key: Key = None, swap: Swap | None = None, transform: Transform | None = None, check: bool = True,
    ) -> None:  # fmt: skip
        """Raises `UserError` where `p` is no probability or `copies` is below 1; `copies` None means all there are."""
        self.base, self.transform = base, transform
        self._draws = Draws(seed, None)
        self._swapping = Swapping(store, p, copies, self._draws, key, swap, check, None)
        self._seen = self._skip = 0

    def __iter__(self) -> Iterator[Any]:
        self._draws.check_unwrapped(self)
        skip, self._skip = self._skip, 0
        self._seen = skip
        self._draws.begin_pass()
        return self._items(0 if is_stateful(self.base) else skip)

    def _items(self, skip: int) -> Iterator[Any]:
        for item in islice(self.base, skip, None):
            self._seen += 1
            item = self._swapping(item, (across_workers(self._seen), 0))
            yield item if self.transform is None else self.transform(item)
        self._draws.end_pass()
        self._swapping.end_pass()

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch; see `AugmentedDataset.set_epoch`."""
        self._draws.set_epoch(epoch)
        tell(self.base, epoch)

    @property
    def counts(self) -> dict[str, int]:
        """The counts of `AugmentedDataset.counts`."""
        return self._swapping.counts()

    def state_dict(self) -> dict[str, Any]:
        """Epoch, counts, the number of items seen in this epoch and, where it has one, the state of the base."""
        base = self.base.state_dict() if is_stateful(self.base) else None  # type: ignore[attr-defined]
        return {**self._swapping.state_dict(), "seen": self._seen, "base": base}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`: the next iteration begins behind the items that were seen."""
        self._swapping.load_state_dict(state)
        self._skip = self._seen = state["seen"]
        if state["base"] is not None:
            tell(self.base, state["epoch"])
            self.base.load_state_dict(state["base"])  # type: ignore[attr-defined]


def is_stateful(base: object) -> bool:
    """Whether an object can save and restore its own position."""
    return hasattr(base, "state_dict") and hasattr(base, "load_state_dict")


def tell(base: object, epoch: int) -> None:
    """Calls `set_epoch` of an object that has it."""
    if hasattr(base, "set_epoch"):
        base.set_epoch(epoch)
