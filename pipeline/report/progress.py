"""Progress bars: what is done, how fast, how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def training_progress(batch_size: int, *, enabled: bool) -> Iterator[Callable[[int, float, float | None], None]]:
    """A bar over the budget; call the result with (step, share of the budget spent, last loss)."""
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
