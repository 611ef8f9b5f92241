"""The draws of an epoch: each has a number of its own, and what it decides is a hash of that number and the key."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import Any

import torch
from torch.utils.data import get_worker_info

from pipeline.hooks.wrapping import is_wrapped

PROCESSES = 256
"""So many processes of a loader are told apart; more would share a place in memory."""
SHARED = ("epoch", "torch_seed", "rank", "world", "told_of_epoch", "told_of_wrapping")
"""The numbers that all processes of a loader share, in the order of their tensor."""

log = logging.getLogger("doppel")


class Draws:
    """Three uniform numbers for each draw: a function of seed, torch's seed, rank, epoch, number of the draw, and key.

    The number of a draw is (batch of the epoch, place in the batch). A loader deals its batches to its workers in turn,
    so each worker knows the numbers of its own, and they are the same however many workers there are. What an index or
    a key is drawn for a second time is another draw. torch's seed (`torch.manual_seed`) and rank are those of the
    training's process when the data set is made, and at each `set_epoch`; they reach workers in shared memory.
    """

    def __init__(self, seed: int, size: int | None) -> None:
        """`size` is how many items there are, where that is known."""
        self._seed, self._size = seed, size
        self._shared = torch.zeros(len(SHARED), dtype=torch.int64).share_memory_()
        self._drawn = torch.zeros(PROCESSES, dtype=torch.int64).share_memory_()
        self._passed = torch.full((PROCESSES,), -1, dtype=torch.int64).share_memory_()
        self._mine = (0, 0)
        """The epoch that this process is in, and the batches that it has begun in it."""
        self._resumed = False
        self._look_up_seeds()

    def __getitem__(self, name: str) -> int:
        return int(self._shared[SHARED.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._shared[SHARED.index(name)] = value

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch, for this process and all workers."""
        self["epoch"] = epoch
        self._drawn.zero_()
        self._passed.fill_(-1)
        self._look_up_seeds()

    def begin_batch(self, count: int) -> int:
        """The number, in the epoch, of the batch that this process begins, of `count` draws."""
        epoch, begun = self._mine
        begun = begun if epoch == self["epoch"] else 0
        self._mine = self["epoch"], begun + 1
        self._drawn[own_row()] += count
        if self._size and self._drawn.sum() * self["world"] > 2 * self._size:
            self._tell_once()
        return across_workers(begun)

    def begin_pass(self) -> None:
        """Tells that this process begins a pass over a stream."""
        if self._passed[own_row()] == self["epoch"]:
            self._tell_once()

    def end_pass(self) -> None:
        """Tells that this process has come to the end of a stream."""
        self._passed[own_row()] = self["epoch"]

    def check_unwrapped(self, dataset: object) -> None:
        """Says once where a loader asks another data set, which holds this one."""
        first = own_row() <= 1  # two workers would both find that nothing was told yet
        if first and not self["told_of_wrapping"] and is_wrapped(dataset):
            self["told_of_wrapping"] = 1
            log.warning(
                "the loader reads another data set, which holds this one: its draws may hang on the number of workers, "
                "and a resumed training may draw others; put Subset, ConcatDataset and wrappers of your own inside, "
                "and %s around them, last",
                type(dataset).__name__,
            )

    def uniforms(self, key: str, batch: int, place: int) -> tuple[float, float, float]:
        """Three numbers in [0, 1) for a draw."""
        return uniforms(self._seed, self["torch_seed"], self["rank"], self["epoch"], batch, place, key)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, torch's seed, and the batches that this process has begun."""
        epoch, begun = self._mine
        begun = begun if epoch == self["epoch"] else 0
        return {"epoch": self["epoch"], "torch_seed": self["torch_seed"], "batches": begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, whatever torch's seed is by now."""
        self["epoch"], self["torch_seed"], self._resumed = state["epoch"], state["torch_seed"], True
        self._mine = state["epoch"], state["batches"]

    def _look_up_seeds(self) -> None:
        """Finds rank and torch's seed, unless a resumed training goes on with the seed that it began with."""
        if get_worker_info() is not None:
            return
        self["rank"], self["world"] = rank_and_world()
        if not self._resumed:
            self["torch_seed"] = (torch.initial_seed() + 2**63) % 2**64 - 2**63  # as a signed number

    def _tell_once(self) -> None:
        if not self["told_of_epoch"]:
            self["told_of_epoch"] = 1
            log.warning(
                "the data was gone through twice in epoch %d: call set_epoch before every epoch, or its neighbours may "
                "be those of the epoch before",
                self["epoch"],
            )


def across_workers(number: int) -> int:
    """The number, in the whole loader, of this worker's batch `number`: a loader deals batches to workers in turn."""
    info = get_worker_info()
    return number if info is None else number * info.num_workers + info.id


def rank_and_world() -> tuple[int, int]:
    """The rank of this process in a distributed training, and how many there are; 0 and 1 elsewhere.

    They are those of `torch.distributed`, or of the variables that torchrun sets.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return (int(rank), max(int(world), 1)) if rank.isdecimal() and world.isdecimal() else (0, 1)


def uniforms(*parts: int | str) -> tuple[float, float, float]:
    """Three numbers in [0, 1) that are a hash of the parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=24).digest()
    due, which, taken = (int.from_bytes(digest[i : i + 8]) >> 11 for i in (0, 8, 16))
    return due / 2**53, which / 2**53, taken / 2**53


def own_row() -> int:
    """The place of this process in shared memory: 0 outside of workers."""
    info = get_worker_info()
    return 0 if info is None else 1 + info.id % (PROCESSES - 1)
