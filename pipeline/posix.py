"""What doppel asks of the system beyond Python: locks and signals as Linux and macOS have them. Windows has neither."""

from __future__ import annotations

import signal
from typing import IO, Any

from pipeline.errors import UserError

STOPPING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask to stop."""


def require_posix(what: str) -> None:
    """Raises `UserError` where the system has no locks of files; `what` begins the sentence."""
    try:
        import fcntl  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            f"{what} runs on Linux and macOS, with their locks of files and their signals; on Windows, install it in "
            "the Windows Subsystem for Linux (wsl --install)"
        ) from None


def lock(file: IO[Any], *, shared: bool = False) -> bool:
    """Holds an open file against other processes until it is closed, or says that another process holds it.

    Those that hold it `shared` do so together, and against those that hold it alone. Raises `UserError` where the
    system has no such locks.
    """
    require_posix("what several processes may write")
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: IO[Any]) -> None:
    """Gives a file free that is locked, also for processes that were forked meanwhile and have it open, too."""
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)
