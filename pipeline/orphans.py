"""Worker processes end with the process that started them, in whatever way it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def follow_parent() -> None:
    """Makes a worker end with its parent and ignore Ctrl-C and SIGHUP; it is to be called first.

    These reach the whole group of processes, and are left to the parent, which ends its workers by SIGTERM.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker that outlived a killed parent would write into a folder that nobody holds any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
