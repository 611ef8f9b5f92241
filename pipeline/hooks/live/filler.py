"""The process that fills a store with neighbours while a training reads from it."""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch

from pipeline.diffusion.model import Outline
from pipeline.errors import UserError
from pipeline.hooks.live.indexed import IndexedSource
from pipeline.hooks.live.slots import Slots, SlotWriter
from pipeline.hooks.live.source import FileSource, Original, StreamSource
from pipeline.hooks.neighbours import Neighbours
from pipeline.job.classes import Classes
from pipeline.media.opening import Undecodable
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Operator
from pipeline.orphans import follow_parent

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

MakerState = Literal["starting", "running", "waiting", "crashed", "stopped"]
"""What the maker is doing, or how it ended."""
STATES: tuple[MakerState, ...] = get_args(MakerState)
"""The states in the order of the numbers that stand for them."""
FIELDS = ("state", "pid", "passes", "rows", "made", "refused", "ended")
"""The numbers of `MakerProgress`, in the order of the file; `ended` is when it crashed, in seconds since 1970."""
PROGRESS, LOG = "progress.raw", "maker.log"
"""The file of `MakerProgress`, and the one in which a failing maker leaves its error."""
LOOKED = 8
"""The maker may look at so many originals for each neighbour that it makes or that is asked for: one that has little to
do must not spend the training's time on looking for it."""
CHUNK = 1024
"""Originals between two looks at what has been read; in a smaller store, as many as it has slots, so that all get a
turn."""
POLL_SECONDS = 0.05
"""Seconds between two looks of a waiting maker."""
NICE = 10
"""What is added to the niceness of a maker on a CPU."""


class MakerProgress:
    """int64 numbers in a mapped file, which tell what the maker does, even after it was killed."""

    def __init__(self, folder: Path, mode: str) -> None:
        """Opens the file in `folder`; `mode` is numpy's, and w+ makes it anew."""
        mapped = np.memmap(folder / PROGRESS, np.int64, mode=mode, shape=(len(FIELDS),))  # type: ignore[call-overload]
        self._values = mapped.view(np.ndarray)

    def __getitem__(self, name: str) -> int:
        return int(self._values[FIELDS.index(name)])

    def __setitem__(self, name: str, value: int) -> None:
        self._values[FIELDS.index(name)] = value

    @property
    def state(self) -> MakerState:
        """What the maker does now."""
        return STATES[self["state"]]

    @state.setter
    def state(self, name: MakerState) -> None:
        self["state"] = STATES.index(name)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that the maker has to know."""

    slots: Slots
    source: StreamSource | FileSource | IndexedSource
    model: ModelConfig
    operator: Operator
    classes: Classes
    """What the classes of the originals are for the model."""
    device: str
    threads: int
    salt: bytes = field(repr=False)


class Due(NamedTuple):
    """An original whose neighbour is due: its key, its label, and its pixels uint8 `[H, W, 3]`."""

    key: str
    label: int | None
    pixels: Pixels8


def fill(setup: Setup) -> None:
    """The whole life of the maker; it ends by a signal, with its parent, or with an error, left in the file `LOG`."""
    follow_parent()
    torch.set_num_threads(setup.threads)
    if setup.device == "cpu":
        os.nice(NICE)
    try:
        Filler(setup).run()
    except Exception as error:  # whatever it is: the training goes on, and its process reports this one
        told = str(error) if isinstance(error, UserError) else traceback.format_exc()
        (setup.slots.folder / LOG).write_text(told)
        raise SystemExit(1) from None


class Filler:
    """Makes neighbours of originals that have none left to be read, pass after pass, in the originals' order.

    The number of the pass is the number of the copy. So no key gets the same copy twice, and copies for which it was
    not due are never made.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup, self._progress = setup, MakerProgress(setup.slots.folder, "r+")
        model = load_model(setup.model, setup.device)
        assert setup.model.batch_size != "auto"
        self._batch_size = setup.model.batch_size
        self._neighbours = Neighbours(
            operator=setup.operator,
            model=model,
            salt=setup.salt,
            batch_size=self._batch_size,
            classes=setup.classes,
        )
        self._labels = known_labels(setup.operator, model)
        self._writer = SlotWriter(setup.slots)
        self._due: dict[int, Due] = {}
        """By the slot that each will take."""
        self._unusable: set[str] = set()
        self._why = ""
        """What was wrong with the last one that was refused."""
        self._settled = (0, 0)

    def run(self) -> None:
        """Makes pass after pass, and never returns."""
        self._progress.state = "running"
        self._settled = self._done(), self._asked()
        while True:
            self.make(copy=self._progress["passes"])
            self._progress["passes"] += 1

    def make(self, copy: int) -> None:
        """Makes one pass. Raises `UserError` where no neighbour could be made of any original."""
        slots, known, rows = self._setup.slots.slots, self._progress["rows"], 0
        each, chunk = max(1, slots // known) if known else 1, min(CHUNK, slots)
        for original in self._setup.source():
            rows += 1
            self._look_at(original, each)
            if len(self._due) == self._batch_size:
                self._make_due(copy)
            if rows % chunk == 0:
                self._settle(copy, chunk)
        self._settle(copy, rows % chunk)
        self._progress["rows"] = rows
        if not self._progress["made"]:
            raise UserError(f"no neighbour could be made of {rows} samples{self._why}")

    def _look_at(self, original: Original, each: int) -> None:
        slot = None if original.key in self._unusable else self._writer.place(original.key, each, self._due)
        if slot is None:
            return
        try:
            if self._labels is not None:
                if original.label is None:
                    raise Undecodable("no class label")
                if (why := self._setup.classes.unknown(original.label, self._labels)) is not None:
                    raise Undecodable(f"label {original.label}; {why}")
            self._due[slot] = Due(original.key, original.label, original.pixels())
        except Undecodable as error:
            self._unusable.add(original.key)
            self._refuse(f"{original.key}: {error}")

    def _make_due(self, copy: int) -> None:
        """Neighbours of all that are due, in one batch."""
        if not self._due:
            return
        slots, due = list(self._due), list(self._due.values())
        images = torch.from_numpy(np.stack([one.pixels for one in due])).to(self._setup.device).permute(0, 3, 1, 2)
        labels = None if self._labels is None else torch.tensor([one.label for one in due], device=self._setup.device)
        near, made = self._neighbours(images, [one.key for one in due], labels=labels, copy=copy)
        pixels = near.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        for slot, one, image, good in zip(slots, due, pixels, made.tolist(), strict=True):
            if good:
                self._writer.put(slot, one.key, copy, image)
                self._progress["made"] += 1
            else:
                self._refuse(f"{one.key}: the model's output is not finite")
        self._due.clear()

    def _refuse(self, why: str) -> None:
        self._progress["refused"] += 1
        self._why = f" ({why})"

    def _settle(self, copy: int, looked: int) -> None:
        """Makes what is due, and waits as long as too little was made or read for so many that were looked at."""
        self._make_due(copy)
        done, asked = self._settled
        while LOOKED * max(self._done() - done, self._asked() - asked) < looked:
            self._progress.state = "waiting"
            time.sleep(POLL_SECONDS)
        self._progress.state = "running"
        self._settled = self._done(), self._asked()

    def _done(self) -> int:
        return self._progress["made"] + self._progress["refused"]

    def _asked(self) -> int:
        counts = self._setup.slots.counts()
        return counts.read + counts.missing


def known_labels(operator: Operator, model: Outline) -> range | None:
    """The labels that a job with this operator and model takes; None where it has no use for labels."""
    wanted = model.conditioning == "class" and "own" in operator.conditions_used()
    return range(model.classes or 0) if wanted else None
