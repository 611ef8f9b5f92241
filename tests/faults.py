"""Faults at the very operation that changes the disk, in a forked copy of this process that runs the real command."""

from __future__ import annotations

import builtins
import errno
import io
import json
import multiprocessing
import os
import signal
import sys
import tarfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline.cli import main

Kind = Literal["kill before", "kill after", "EIO", "ENOSPC", "ESTALE", "lie"]
KINDS: tuple[Kind, ...] = ("kill before", "kill after", "EIO", "ENOSPC", "ESTALE", "lie")
"""What can happen: the process dies before or after an operation; an error comes instead of it; or the operation is
done, and still an error is told, as NFS does."""
OPERATIONS = ("replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "truncate", "fsync")
"""Functions of `os` that change the disk or make it safe."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TIMES = ("seconds", "ended")
"""Fields of records that no two runs share."""


@dataclass(frozen=True)
class Fault:
    """What happens at which operation, counted from 0."""

    kind: Kind
    at: int


class Operations:
    """Counts the operations on files below `root`, notes them, and makes one of them fail."""

    def __init__(self, root: Path, fault: Fault | None) -> None:
        self.root, self.fault, self.seen = str(root), fault, list[str]()
        self.owner = 0

    def install(self) -> None:
        """Replaces the functions for the rest of this process's life; what it forks does as it likes."""
        self.owner = os.getpid()
        for name in OPERATIONS:
            setattr(os, name, self.wrapped(name, getattr(os, name)))
        os.open = self.wrapped("open", os.open, lambda args: len(args) > 1 and args[1] & WRITING)
        opened = self.wrapped("open", builtins.open, _writes)
        builtins.open = io.open = tarfile.bltn_open = opened  # type: ignore[assignment, attr-defined]

    def wrapped(
        self, name: str, real: Callable[..., Any], counts: Callable[[tuple[Any, ...]], Any] = lambda args: True
    ) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            place = _place(args[0], options.get("dir_fd")) if counts((*args, *options.values())) else ""
            if not (place + "/").startswith(self.root + "/") or os.getpid() != self.owner:
                return real(*args, **options)
            number = len(self.seen)
            self.seen.append(f"{name} {place[len(self.root) + 1 :]}")
            if self.fault is None or number != self.fault.at:
                return real(*args, **options)
            return self.fail(self.fault.kind, lambda: real(*args, **options), place)

        return operation

    def fail(self, kind: Kind, operation: Callable[[], Any], place: str) -> Any:
        if kind == "kill before":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "kill after":
            operation()
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "lie":
            operation()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), place)
        number = getattr(errno, kind)
        raise OSError(number, os.strerror(number), place)


def command(recipe: Path, *options: str, log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """Starts `doppel run RECIPE` in a copy of this process, with its output in `log`; returns the process id."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
            prepare()
            code = main(["run", str(recipe), *options])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    """Waits for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def operations(recipe: Path, root: Path, log: Path, *options: str) -> list[str]:
    """Runs the job without faults; every operation on files below `root`, in order."""
    noted = log.with_suffix(".operations")

    def prepare() -> None:
        forking(root)
        counted = Operations(root, None)
        counted.install()
        leave = os._exit

        def note(code: int) -> None:
            counted.root = "/nowhere"
            noted.write_text("\n".join(counted.seen))
            leave(code)

        os._exit = note  # type: ignore[assignment]

    assert ended(command(recipe, *options, log=log, prepare=prepare)) == 0, log.read_text()
    return noted.read_text().splitlines()


def faulty(recipe: Path, root: Path, fault: Fault, log: Path, *options: str) -> int:
    """Runs the job with one fault; its exit code."""

    def prepare() -> None:
        forking(root)
        Operations(root, fault).install()

    return ended(command(recipe, *options, log=log, prepare=prepare))


def settled(root: Path) -> dict[str, bytes]:
    """All that a job leaves, by path, without times: the log of events, and in records how long it took."""
    found: dict[str, bytes] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            found[name + "/"] = b""
        elif path.suffix == ".json" and path.parent.name in (root.name, "shards"):
            record = json.loads(path.read_bytes())
            found[name] = json.dumps({k: v for k, v in record.items() if k not in TIMES}, indent=1).encode()
        elif name != "events.jsonl":
            found[name] = path.read_bytes()
    return found


def difference(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """The paths that are too many, missing or of other content."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]


def forking(out: Path) -> None:
    """Workers are forked, and hold the folder's lock and what the command does on SIGTERM no more than spawned ones."""
    real = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: real("fork")  # type: ignore[assignment]
    os.register_at_fork(after_in_child=partial(_let_go, out / ".parts" / "lock"))


def _let_go(lock: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for handle in os.listdir("/proc/self/fd"):
        try:
            held = os.readlink(f"/proc/self/fd/{handle}") == str(lock)
        except OSError:
            continue
        if held:
            os.dup2(os.open("/dev/null", os.O_RDONLY), int(handle))


def _writes(args: tuple[Any, ...]) -> bool:
    return isinstance(args[0], str | os.PathLike) and any(
        isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in args[1:]
    )


def _place(target: Any, folder: int | None) -> str:
    """The absolute path of what an operation is done to: a path, one below an open folder, or an open file."""
    if isinstance(target, int):
        return os.readlink(f"/proc/self/fd/{target}")
    path = os.fsdecode(target)
    return os.path.abspath(path if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path))
