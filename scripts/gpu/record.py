"""What a step of the kit leaves behind: `STEP.json`, written again after every result, so that a cut loses none."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
Status = Literal["new", "running", "done", "partial", "failed", "cut"]
"""`partial`: some cases were not reached, or lacked what they run on; `cut`: the time box ended before the step did.
What was measured by then stands in `results`."""
COMMITS_APART = {"commit": ""}
PARTIAL = 3
"""Exit status of a step that is `partial`."""


@dataclass(kw_only=True)
class Record:
    step: str
    rehearsal: bool
    """On a CPU with tiny shapes: the code ran, and the figures mean nothing."""
    machine: dict[str, str]
    status: Status = "new"
    error: str | None = None
    """Last lines of what a step printed that did not end well."""
    seconds: float = 0.0
    """Over all runs of the step."""
    results: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, step: str, *, rehearsal: bool) -> Record:
        """What an earlier run left in `folder`, or a new record.

        Figures of two kinds of machine are never mixed, nor a rehearsal's with measured ones: such a record, and one
        that cannot be read, counts for nothing. Another commit goes on; each result states its own.
        """
        new = cls(step=step, rehearsal=rehearsal, machine=machine())
        try:
            found = cls(**json.loads((folder / f"{step}.json").read_text()))
            if (found.rehearsal, found.machine | COMMITS_APART) != (rehearsal, new.machine | COMMITS_APART):
                return new
        except (OSError, ValueError, TypeError):
            return new
        found.machine = new.machine
        return found

    def save(self, folder: Path) -> None:
        file = folder / f"{self.step}.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n")
        part.replace(file)

    def add(self, name: str, result: dict[str, Any], folder: Path) -> None:
        self.results[name] = result | {"commit": self.machine["commit"]}
        self.save(folder)


def machine() -> dict[str, str]:
    """Device, driver, packages and commit, found without a context on the device: memory is measured on it."""
    device, _, driver = _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").partition(", ")
    return {
        "device": device or f"CPU, {os.cpu_count()} cores, {platform.machine()}", "driver": driver or "none",
        "torch": _torch(), "python": platform.python_version(), "commit": _commit(),
    }  # fmt: skip


def _torch() -> str:
    """The version with its build, which the package's metadata leave out."""
    spec = importlib.util.find_spec("torch")
    text = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
    found = re.search(r"__version__ = '([^']+)'", text)
    return found[1] if found else "unknown"


def _commit() -> str:
    """As the pack says (`DOPPEL_COMMIT`), else as git does."""
    if stated := os.environ.get("DOPPEL_COMMIT"):
        return stated
    commit = _said("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    return commit + ("+changes" if _said("git", "-C", str(ROOT), "status", "--porcelain") else "") or "unknown"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""
