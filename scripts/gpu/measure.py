"""The kit's steps, one after the other: each in a process of its own, in a box of seconds, with a record that stays.

A step that did not end well is done again when the command is given again (it goes on from what it left), a finished
one is passed over. Exit status: 0 when all that was asked for is done, 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from record import PARTIAL, Record, Status

KIT = Path(__file__).resolve().parent
LOG_LINES, LOG_LINE = 25, 300
"""Of what a failed step printed last, kept in its record."""
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+~-]+/)+")
"""The absolute path of a folder."""
GRACE = 8.0
"""Seconds that a step has between the signal that ends its box and the one that kills it."""
SLACK = 3.0
"""In a rehearsal: a busy CPU must not cut what a GPU would finish."""


BOXES: dict[str, float] = {"smoke": 90, "latent": 150, "pixel": 60, "train": 240}
"""Seconds, the most valuable step first. Each is run as `STEP.py FOLDER --seconds N [--rehearse]` and leaves `STEP.*`.
The last step asked for takes all that is left; training keeps the other steps from taking its own."""
PREPARED = ("latent", "train")
"""Steps that can be prepared (`STEP.py FOLDER --prepare`) while smoke tests run, which nothing is timed in."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where results go, and where those of earlier runs are")
    parser.add_argument("--only", metavar="STEP[,STEP]", help=f"of {', '.join(BOXES)}")
    parser.add_argument("--seconds", type=float, default=570, help="for all of it, from the start of the command")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny shapes: figures mean nothing")
    parser.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that steps end with this program
    work = Path(tempfile.gettempdir()) / "doppel-gpu-work"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(work / "inductor"))  # compiled once, for all steps and runs
    if args.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    names = args.only.split(",") if args.only else list(BOXES)
    if unknown := [name for name in names if name not in BOXES]:
        parser.error(f"--only: {unknown[0]!r} is no step; known are {', '.join(BOXES)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    todo = [name for name in BOXES if name in names]
    deadline = args.started + args.seconds
    done = []
    beside = [] if args.rehearse else [name for name in PREPARED if name in todo and todo[0] == "smoke"]
    for name in todo:
        box = box_of(name, todo, deadline - time.time(), SLACK if args.rehearse else 1.0)
        done.append(run(name, args.folder, box, args.rehearse, beside if name == "smoke" else []))
    print(f"{time.time() - args.started:.0f} s in all; results are in {args.folder}")
    return 0 if all(done) else 1


def box_of(name: str, todo: list[str], left: float, slack: float = 1.0) -> float:
    """Seconds for a step: its own box, `slack` times, and for the last one all that is left."""
    if name == todo[-1]:
        return max(0.0, left)
    kept = BOXES["train"] if "train" in todo else 0.0
    return max(0.0, min(slack * BOXES[name], left - kept))


@contextmanager
def preparing(names: list[str], folder: Path) -> Iterator[None]:
    """Images are decoded and networks compiled for later steps meanwhile; what is not ready by the end is given up."""
    with ExitStack() as logs:
        started = [(name, logs.enter_context(tempfile.TemporaryFile("w+", errors="replace"))) for name in names]
        processes = [spawned(name, folder, ["--prepare"], log) for name, log in started]
        try:
            yield
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)  # all of them at once
            for (name, log), process in zip(started, processes, strict=True):
                ready = process.poll()
                end(process)
                how = {0: "ready", None: "given up"}.get(ready, f"failed ({ready})\n{tail(log)}")
                print(f"{name}, prepared: {how}", flush=True)


def run(name: str, folder: Path, box: float, rehearse: bool, beside: Sequence[str] = ()) -> bool:
    """Runs a step unless its record says that it is done; True where it is. The record says the rest.

    `beside`: steps that are prepared meanwhile.
    """
    before = Record.open(folder, name, rehearsal=rehearse)
    if before.status == "done":
        print(f"{name}: done before", flush=True)
        return True
    if before.status == "new":  # then what lies there is of another machine, or of a rehearsal
        for file in folder.glob(f"{name}.*"):
            file.unlink()
    before.status, before.error = "running", None
    before.save(folder)
    print(f"{name}: at most {box:.0f} s", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as log, preparing(list(beside), folder):
        status, error = boxed(name, folder, box, rehearse, log)
        print(tail(log), flush=True)
    for file in folder.glob("*.part"):  # of a step that was killed while it wrote
        file.unlink()
    after = Record.open(folder, name, rehearsal=rehearse)  # the step added its results
    after.status, after.error = status, error
    after.seconds = round(before.seconds + time.monotonic() - started, 1)
    after.save(folder)
    print(f"{name}: {status} in {time.monotonic() - started:.0f} s", flush=True)
    return status == "done"


def spawned(name: str, folder: Path, options: Sequence[str], log: IO[str]) -> subprocess.Popen[bytes]:
    """A step's process, at the head of a group of its own."""
    command = [sys.executable, str(KIT / f"{name}.py"), str(folder), *options]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def boxed(name: str, folder: Path, box: float, rehearse: bool, log: IO[str]) -> tuple[Status, str | None]:
    """How the step's process ended, and the end of what it printed where that was not well."""
    process = spawned(name, folder, ["--seconds", f"{box:.1f}", *(["--rehearse"] if rehearse else [])], log)
    try:
        code = process.wait(timeout=box)
    except subprocess.TimeoutExpired:
        end(process)
        return "cut", f"the box of {box:.0f} s ended first\n{tail(log)}"
    finally:
        end(process)  # also what the step left behind, and all of it when this program is interrupted
    if code == 0:
        return "done", None
    return ("partial" if code == PARTIAL else "failed"), f"exit status {code}\n{tail(log)}"


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all that it started."""
    for how, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue


def tail(log: IO[str]) -> str:
    """The last lines of a log, with the names of files, and not the folders of this machine that they lie in."""
    log.seek(0)
    lines = FOLDERS.sub("", log.read()).replace("\r", "\n").strip().splitlines()
    return "\n".join(line[:LOG_LINE] for line in lines[-LOG_LINES:])


if __name__ == "__main__":
    sys.exit(main())
