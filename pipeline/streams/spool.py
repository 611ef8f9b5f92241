"""A private folder of this machine for what is on its way to an object store; a process that died leaves nothing."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from pipeline.posix import lock
from pipeline.streams.private import make_private_folder

HELD = "lock"
"""The file that a spool's process holds."""
GATE = ".gate"
"""The file that is held while a spool is made, so that no other process takes it for a dead one's."""


def make_spool(place: str) -> Path:
    """Makes an empty folder for this process below the system's folder for temporary files (`TMPDIR`).

    It goes when the process ends. What processes that were killed have left for the same `place`, a URL, goes now.
    """
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    base = make_private_folder(Path(tempfile.gettempdir()) / f"doppel-{os.geteuid()}")
    base = make_private_folder(base / name)
    with open(base / GATE, "w") as gate:
        while not lock(gate):
            time.sleep(0.01)
        for left in base.iterdir():
            if left.name != GATE and not _is_held(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
        held = open(folder / HELD, "w")  # noqa: SIM115 (closed by the system)
        lock(held)
    atexit.register(_end, folder, os.getpid(), held)
    return folder


def _is_held(folder: Path) -> bool:
    try:
        with open(folder / HELD, "r+") as held:
            return not lock(held)
    except OSError:
        return False


def _end(folder: Path, process: int, held: IO[Any]) -> None:
    held.close()
    if os.getpid() == process:  # and none that was forked from it
        shutil.rmtree(folder, ignore_errors=True)
