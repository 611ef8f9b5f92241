"""The GPU kit's cases: what was measured is not run again, what failed or was not reached is, and all of it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cases as kit
import latent
import pytest
from latent_rates import LEVEL
from record import Record


class Runs:
    """Cases that count how often they ran."""

    def __init__(self, *failing: str, seconds: float = 10) -> None:
        self.failing, self.seconds, self.ran = failing, seconds, list[str]()

    def cases(self, *names: str) -> list[Any]:
        return [kit.Case(name=name, seconds=self.seconds, run=lambda name=name: self.run(name)) for name in names]

    def run(self, name: str) -> dict[str, Any]:
        self.ran.append(name)
        if name in self.failing:
            raise ValueError("no such kernel")
        return {"rate": 3.0}


def run(runs: Runs, names: list[str], folder: Path, left: float = 100) -> dict[str, Any]:
    """The step as a new process runs it; what the file holds afterwards."""
    record = Record.open(folder, "latent", rehearsal=True)
    kit.run_cases(runs.cases(*names), record, folder, lambda: left)
    return json.loads((folder / "latent.json").read_text())["results"]


def test_measured_cases_are_not_run_again(tmp_path: Path) -> None:
    runs = Runs()
    first = run(runs, ["a", "b"], tmp_path)
    assert first["a"]["rate"] == 3
    again = run(runs, ["a", "b", "c"], tmp_path)
    assert runs.ran == ["a", "b", "c"]
    assert again["a"] == first["a"]


def test_a_failure_is_recorded_and_the_next_case_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Runs("a")
    results = run(broken, ["a", "b"], tmp_path)
    assert results["a"]["error"] == "ValueError: no such kernel"
    assert results["b"]["rate"] == 3
    assert "error: ValueError: no such kernel" in capsys.readouterr().out
    record = Record.open(tmp_path, "latent", rehearsal=True)
    assert kit.exit_code(record, broken.cases("a", "b")) == 1
    assert run(mended := Runs(), ["a", "b"], tmp_path)["a"]["rate"] == 3
    assert mended.ran == ["a"]
    assert kit.exit_code(Record.open(tmp_path, "latent", rehearsal=True), mended.cases("a", "b")) == 0


def test_a_case_that_does_not_fit_is_not_begun_and_tried_again(tmp_path: Path) -> None:
    runs = Runs(seconds=30)
    results = run(runs, ["a"], tmp_path, left=29)
    assert results["a"]["not_reached"] == "about 30 s were needed, and 29 s were left"
    assert runs.ran == []
    assert kit.exit_code(Record.open(tmp_path, "latent", rehearsal=True), runs.cases("a")) == kit.PARTIAL
    assert run(runs, ["a"], tmp_path, left=31)["a"]["rate"] == 3


def test_what_has_nothing_to_run_on_gives_its_reason(tmp_path: Path) -> None:
    def gate() -> dict[str, Any]:
        raise kit.NotRun("dlib is missing")

    record = Record.open(tmp_path, "pixel", rehearsal=True)
    case = kit.Case(name="gate", seconds=1, run=gate)
    kit.run_cases([case], record, tmp_path, lambda: 9)
    assert record.results["gate"]["not_run"] == "dlib is missing"
    assert kit.exit_code(record, [case]) == 0
    measured = Record.open(tmp_path / "gpu", "pixel", rehearsal=False)
    measured.results = record.results
    assert kit.exit_code(measured, [case]) == kit.PARTIAL


def test_results_of_a_rehearsal_do_not_count_as_measured(tmp_path: Path) -> None:
    run(Runs(), ["a"], tmp_path)
    assert Record.open(tmp_path, "latent", rehearsal=False).results == {}


def test_the_clock_counts_from_the_start_of_the_process() -> None:
    first, second = kit.clock(0)(), kit.clock(1000)()
    assert first < 0
    assert second - first == pytest.approx(1000, abs=5)


def test_diffusers_takes_a_step_while_the_compiler_s_cache_is_filled() -> None:
    """Its img2img rounds strength × grid down."""
    assert int(round(latent.PREPARING_STEPS / LEVEL) * LEVEL) >= 1


def test_plans_name_each_case_once_and_the_eager_ones_first() -> None:
    for plans in (latent.GPU, latent.REHEARSAL):
        cases = latent.cases(plans, None)
        assert len({case.name for case in cases}) == len(cases)
        assert all(plan.config in latent.SPECS for plan in plans)
    assert [plan.way for plan in latent.GPU[:3]] == ["eager"] * 3
