"""Progress bars: what is done, how fast, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def training_progress(batch_size: int, *, enabled: bool) -> Iterator[Callable[[int, float, float | None], None]]:
    """Shows a bar over the budget of a training.

    Yields a function that takes (step, fraction of the budget spent, last loss).
    """
    columns = (
        TextColumn("training"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]}  {task.fields[rate]} images/s"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as progress:
        task = progress.add_task("", total=1.0, step=0, loss="–", rate="–")
        first: int | None = None

        def report(step: int, share: float, loss: float | None) -> None:
            nonlocal first
            first = step - 1 if first is None else first
            seconds = progress.tasks[0].elapsed or 0
            rate = f"{(step - first) * batch_size / seconds:.0f}" if seconds > 1 else "–"
            text = "–" if loss is None else f"{loss:.4f}"
            progress.update(task, completed=share, step=step, loss=text, rate=rate)

        yield report


@contextmanager
def looking() -> Iterator[Callable[[str, int], None]]:
    """Shows a line for each kind of image that is looked at, with images so far and images/s.

    Yields a function that takes (kind, how many more).
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} images"),
        TextColumn("{task.fields[rate]} images/s"), TimeElapsedColumn(),
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def report(what: str, more: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None, rate="–")
            task = progress.tasks[tasks[what]]
            rate = (task.completed + more) / max(task.elapsed or 0, 1e-9)
            progress.update(tasks[what], advance=more, rate=f"{rate:.1f}")

        yield report


@contextmanager
def comparing() -> Iterator[Callable[[str, int, int], None]]:
    """Shows a bar over the runs of a comparison.

    Yields a function that takes (what was done last, runs so far, runs in all).
    """
    columns = (
        TextColumn("comparing"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} runs"),
        TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=1)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


class JobProgress:
    """A bar over shards, with images, images/s, time left and quarantined samples; a context manager."""

    def __init__(self) -> None:
        self.originals = self.images = self.rejected = self.shards = 0
        self.started = self._opened = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[shards]} shards"), BarColumn(), TextColumn("{task.fields[images]}"),
            TextColumn("{task.fields[rate]} images/s"), TextColumn("{task.fields[rejected]} quarantined"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None, shards="?", images="0 images", rate="–", rejected=0)
        self._finished = self._total = self._at_last_shard = 0

    def __enter__(self) -> JobProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, finished: int, total: int) -> None:
        """Starts the clock of the job: `finished` of `total` shards are already there."""
        self.started = time.monotonic()
        self._finished, self._total = finished, total
        self._show()

    def add(self, images: int, rejected: int) -> None:
        """Counts images that were written, and samples that were rejected."""
        self.images += images
        self.rejected += rejected
        self._show()

    def scanned(self, images: int) -> None:
        """Counts originals whose faces were looked for, before the job itself."""
        self.originals += images
        self.started = time.monotonic()
        rate = self.originals / max(self.started - self._opened, 1e-9)
        self._bar.update(self._task, images=f"{self.originals} originals scanned,", rate=f"{rate:.1f}")

    def shard_done(self) -> None:
        """Counts a shard that is complete."""
        self.shards += 1
        self._at_last_shard = self.images
        self._show()

    @property
    def rate(self) -> float:
        """Images per second since the job began."""
        return self.images / max(time.monotonic() - self.started, 1e-9)

    def _show(self) -> None:
        done = self._finished + self.shards
        # the open shard counts as far as its images have come, if it is like those before
        typical = self._at_last_shard / self.shards if self.shards else 0
        opened = min((self.images - self._at_last_shard) / typical, 0.99) if typical else 0.0
        self._bar.update(
            self._task, total=self._total, completed=done + opened, shards=f"{done}/{self._total}",
            images=f"{self.images} images", rate=f"{self.rate:.1f}", rejected=self.rejected,
        )  # fmt: skip
