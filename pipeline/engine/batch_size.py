"""How many images fit into memory: the batch size that a job begins with, and what happens where it is too large."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from pipeline.errors import UserError
from pipeline.identity import hash_json
from pipeline.plain_json import parse_json_object
from pipeline.streams.store import Store

LARGEST, ON_CPU = 512, 8
"""What `batch_size: auto` takes at most on a GPU, and always on a CPU: main memory cannot be tried out safely, and a
CPU gains little by larger batches."""

TOO_SMALL = "out of memory with one image: try model.dtype bfloat16, model.offload, model.vae.tiling or model.size"
"""The advice where not even one image fits."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
log = logging.getLogger("doppel")


@dataclass
class BatchSize:
    """The number of images that go through the model at once; it halves when memory runs out, and stays halved."""

    images: int

    def each(
        self, items: Sequence[Item], work: Callable[[list[Item]], Outcome]
    ) -> Iterator[tuple[list[Item], Outcome]]:
        """Calls `work` on so many items at a time, in order, padding a shorter group with its last item.

        Yields each group without its padding, and what `work` gave for it. Raises `UserError` where a single item is
        too much.
        """
        start = 0
        while start < len(items):
            some = list(items[start : start + self.images])
            with fitting() as fits:
                result = work(some + some[-1:] * (self.images - len(some)))
            if fits():
                yield some, result
                start += len(some)
            else:  # the error is gone by now, and with its traceback the tensors that it held
                self._halve()

    def _halve(self) -> None:
        if self.images == 1:
            raise UserError(TOO_SMALL)
        self.images = (self.images + 1) // 2
        log.warning("out of memory: going on with model.batch_size %d", self.images)
        free()


NO_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Words in the errors of libraries that allocate for themselves (cuBLAS, cuDNN), where torch's own error is not
raised."""


@contextmanager
def fitting() -> Iterator[Callable[[], bool]]:
    """Catches running out of memory; yields a function that tells afterwards whether memory was enough.

    Other errors pass.
    """
    enough = True
    try:
        yield lambda: enough
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        enough = False


def free() -> None:
    """Releases memory that nothing refers to any more, also on GPUs."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest_batch(work: Callable[[int], object], largest: int = LARGEST) -> int:
    """The largest power of two, up to `largest`, for which `work(images)` fits.

    Raises `UserError` where not even one does. Kernels have limits of their own (2³¹ numbers in a tensor): a size that
    fails where a smaller one did not counts as not fitting, and a warning says so.
    """
    size = 0
    while (trial := max(1, 2 * size)) <= largest:
        try:
            with fitting() as fits:
                work(trial)
        except RuntimeError as error:
            if size == 0:
                raise
            log.warning("batch_size auto: %d images fail (%s); %d are taken", trial, str(error).split("\n")[0], size)
            break
        finally:
            free()
        if not fits():
            break
        size = trial
    if size == 0:
        raise UserError(TOO_SMALL)
    return size


REMEMBERED = "batch_size.json"
"""The file in a job's folder that holds the batch size that was found."""


def remembered(store: Store, hashes: Mapping[str, str], find: Callable[[], int]) -> int:
    """The batch size that an earlier run found for a job of these hashes (see `remember`), else what `find` finds.

    Raises `UserError` for a damaged record: another size would give other bytes.
    """
    file, content = f"{store.shown}/{REMEMBERED}", store.read(REMEMBERED)
    known = {} if content is None else parse_json_object(content, file)
    if known.get("job") != job_of(hashes):
        return find()
    if type(size := known.get("batch_size")) is not int or size < 1:
        raise UserError(f"{file}: batch_size is {size!r}, a number is expected; remove the file to have it found again")
    return size


def remember(store: Store, hashes: Mapping[str, str], size: int, *, first: bool = False) -> int:
    """Writes the batch size that was found into the job's folder, for its next run, and returns it.

    With `first`, one that another run of the job was first to write stays, and is returned.
    """
    content = (json.dumps({"batch_size": size, "job": job_of(hashes)}) + "\n").encode()
    if first and not store.put_if_absent(REMEMBERED, content):
        return remembered(store, hashes, lambda: size)
    store.put(REMEMBERED, content)
    return size


def job_of(hashes: Mapping[str, str]) -> str:
    """A hash of everything that a batch size depends on: configuration and models."""
    return hash_json([hashes[part] for part in ("config", "model", "second_model", "judge")])
