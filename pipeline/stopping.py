"""Ctrl-C, SIGTERM and SIGHUP end the command in the same way: once, in order, in time, and with what was finished."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.posix import STOPPING

PATIENCE = 10.0
"""Seconds in which further signals are passed over, so that they do not break the tidying up that the first began."""

GRACE = 15.0
"""Seconds after which the command ends whatever is still at work, such as a model call; preemption kills a little
later."""


class Stopped(KeyboardInterrupt):
    """A signal has asked the command to stop."""


class Stopping:
    """What is known of signals so far; see `stoppable`."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal; None where there was none."""
        self._last = -PATIENCE
        self._timer: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raises `Stopped`, unless it did so a moment ago."""
        if time.monotonic() - self._last < PATIENCE:
            return
        self._last = time.monotonic()
        self.number = self.number or number
        if self._timer is not None and not self._timer.is_alive():
            self._timer.start()
        raise Stopped(signal.Signals(number).name)

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Ends the process if the block does not end within `GRACE` seconds after the first signal."""
        self._timer = threading.Timer(GRACE, self._give_up)
        self._timer.daemon = True
        try:
            yield
        finally:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """Leaves as `kill -9` would: files are put whole, and the next run removes what was half-done."""
        number = signal.Signals(self.number or signal.SIGTERM)
        said = f"doppel: interrupted by {number.name}; what was at work is dropped, the same command goes on from here"
        os.write(2, f"{said}\n".encode())
        os._exit(128 + number)


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Within it, the first signal raises `Stopped` in the main thread; after one, all are ignored for good.

    What does not end in `GRACE` seconds then ends with the process.
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
        with stopping.in_time():
            yield stopping
    finally:  # nothing of the process is left that a further signal could stop
        for number in mine:
            signal.signal(number, signal.SIG_IGN if stopping.number else before[number])
