"""Ctrl-C, SIGTERM and SIGHUP end the command in the same way: once, in order, and with what was finished kept."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.posix import STOPPING

PATIENCE = 10.0
"""Seconds in which further signals are passed over, so that they do not break the tidying up that the first began."""


class Stopped(KeyboardInterrupt):
    """A signal has asked the command to stop."""


class Stopping:
    """What is known of signals so far; see `stoppable`."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal; None where there was none."""
        self._last = -PATIENCE

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raises `Stopped`, unless it did so a moment ago."""
        if time.monotonic() - self._last < PATIENCE:
            return
        self._last = time.monotonic()
        self.number = self.number or number
        raise Stopped(signal.Signals(number).name)


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Within it, the first signal raises `Stopped` in the main thread; after one, all are ignored for good.

    A signal that is ignored already stays ignored, as under nohup. In other threads than the main one it does nothing.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    mine = [number for number in STOPPING if before[number] is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, stopping)
    try:
        yield stopping
    finally:  # nothing of the process is left that a further signal could stop
        for number in mine:
            signal.signal(number, signal.SIG_IGN if stopping.number else before[number])
