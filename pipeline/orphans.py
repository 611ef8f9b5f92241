"""Worker processes end with the process that started them, in whatever way it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from pipeline.posix import STOPPING

LEFT_TO_PARENT = tuple(number for number in STOPPING if number != signal.SIGTERM)
"""Signals that reach the whole group of processes; the parent ends its workers by SIGTERM."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Processes that are started within it never see Ctrl-C and SIGHUP, not even while they import what they need.

    This process sees them afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_PARENT)
    try:
        resource_tracker.ensure_running()  # a process of Python's own; when it has started, nothing is blocked
        signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_PARENT)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Makes a worker end with its parent and ignore Ctrl-C and SIGHUP; it is to be called first."""
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker that outlived a killed parent would write into a folder that nobody holds any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
