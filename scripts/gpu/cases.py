"""The cases of a step, one after the other: each leaves its result in the record, and is not run again."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import PARTIAL, Record

from pipeline.engine.batch_size import free

UNSETTLED = ("error", "not_run", "not_reached")
"""Keys of a result that is none: the next run tries the case again."""


IMPORTS = 60.0
"""Seconds that imports can take at most."""


class NotRun(Exception):
    """A case has nothing to run on here; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    seconds: float
    """That it takes, estimated: with fewer left it is not begun."""
    run: Callable[[], dict[str, Any]]


def clock(seconds: float) -> Callable[[], float]:
    """How many of the `seconds` from the start of this process are left, when called: its imports count.

    Where the system tells no sensible start, from now.
    """
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    lived = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    end = time.monotonic() + seconds - (lived if 0 <= lived <= IMPORTS else 0)
    return lambda: end - time.monotonic()


def settled(result: Mapping[str, Any] | None) -> bool:
    return result is not None and not any(key in result for key in UNSETTLED)


def run_cases(cases: Sequence[Case], record: Record, folder: Path, left: Callable[[], float]) -> None:
    """`left()`: seconds that the step still has."""
    for case in cases:
        if settled(record.results.get(case.name)):
            print(f"{case.name}: measured before", flush=True)
            continue
        started = time.monotonic()
        result = outcome(case, left())
        free()  # one case's memory must not make the next one's largest batch smaller
        record.add(case.name, result, folder)
        if "CUDA error" in result.get("error", ""):  # the device is lost to this process
            raise SystemExit(FAILED)
        how = next((f"{key.replace('_', ' ')}: {result[key]}" for key in UNSETTLED if key in result), "done")
        print(f"{case.name}: {how} ({time.monotonic() - started:.1f} s)", flush=True)


def outcome(case: Case, left: float) -> dict[str, Any]:
    if left < case.seconds:
        return {"not_reached": f"about {case.seconds:.0f} s were needed, and {max(left, 0):.0f} s were left"}
    started = time.monotonic()
    try:
        result = case.run()
    except NotRun as reason:
        return {"not_run": str(reason)}
    except Exception as error:  # the next case may do all the same
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return result | {"case_seconds": time.monotonic() - started}


FAILED = 1


def exit_code(record: Record, cases: Sequence[Case]) -> int:
    """Not 0 where a case failed, was not reached or had nothing to run on: the step's next run goes on with them.

    A rehearsal is done all the same where something is missing.
    """
    results = [record.results.get(case.name, {}) for case in cases]
    if any("error" in result for result in results):
        return FAILED
    open_ones = ["not_reached"] if record.rehearsal else ["not_reached", "not_run"]
    return PARTIAL if any(key in result for result in results for key in open_ones) else 0


def leave_on_sigterm() -> None:
    """What ends a step's box: temporary folders go, and with those in memory their gigabytes."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
