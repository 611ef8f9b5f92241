"""The step *smoke*: tests marked `gpu`. Each test's outcome is in the record as soon as it is known."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from record import ROOT, Record


class Noted:
    """A plugin of pytest that writes the record; tests that passed in an earlier run are left out."""

    def __init__(self, record: Record, folder: Path) -> None:
        self.record, self.folder = record, folder

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        passed = {name for name, found in self.record.results.items() if found["outcome"] == "passed"}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":  # set-up and tear-down count where they fail or skip
            found: dict[str, Any] = {"outcome": report.outcome, "seconds": round(report.duration, 2)}
            found |= {"measured": dict(report.user_properties)} if report.user_properties else {}
            if report.outcome == "skipped":
                found["why"] = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
            elif report.outcome == "failed":
                found["why"] = str(report.longrepr)[-1500:]
            self.record.add(report.nodeid, found, self.folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    record = Record.open(args.folder, "smoke", rehearsal=args.rehearse)
    if args.rehearse:
        os.environ["DOPPEL_GPU_REHEARSAL"] = "1"
    alone = ["-o", "addopts=--import-mode=importlib"]  # in this process: the plugin notes, and xdist may be missing
    options = [*alone, "-m", "gpu", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(ROOT / "tests" / "gpu")]
    code = int(pytest.main(options, plugins=[Noted(record, args.folder)]))
    outcomes = [found["outcome"] for found in record.results.values()]
    print({outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")})
    nothing_left = code == pytest.ExitCode.NO_TESTS_COLLECTED and "passed" in outcomes
    return 0 if nothing_left else code


if __name__ == "__main__":
    sys.exit(main())
