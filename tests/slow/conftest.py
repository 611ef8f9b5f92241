"""Adds up what the tests of faults did."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how many faults of each kind were made; the file that DOPPEL_FAULTS_COUNTS names gets them as JSON."""
    counts = Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in report.user_properties:
                if name == "faults":
                    counts.update(value)
    if not counts:
        return
    told = {"total": counts.total(), **dict(sorted(counts.items()))}
    terminalreporter.write_line("faults: " + ", ".join(f"{name} {count}" for name, count in told.items()))
    if file := os.environ.get("DOPPEL_FAULTS_COUNTS"):
        Path(file).write_text(json.dumps(told, indent=1) + "\n")
