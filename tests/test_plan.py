"""The plan of a job is complete before any work starts, and run, preview and estimate are wired alike."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.estimate import estimate
from pipeline.commands.preview import try_out
from pipeline.config import validate
from pipeline.engine import planning, reading, running
from pipeline.engine.planning import PASS_THROUGH_BATCH, make_plan
from pipeline.engine.reading import open_input
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.records import Sample
from tests import builders


def config(tmp_path: Path, model: Path | None, **changes: Any) -> JobConfig:
    source = tmp_path / "in.tar"
    if not source.exists():
        builders.shard(source, 5)
    return validate(JobConfig, builders.recipe(source, tmp_path / "out", model, **changes), "test")


def test_it_is_complete_and_nothing_was_written(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "try_sizes", lambda plan, device: 3)
    plan = make_plan(config(tmp_path, model, **{"model.batch_size": "auto"}))
    assert plan.batch_size == 3
    assert plan.devices == ("cpu",)
    assert plan.size == (builders.SIDE, builders.SIDE)
    assert not (tmp_path / "out").exists()
    again = pickle.loads(pickle.dumps(plan))  # as it goes to worker processes
    assert [getattr(again, field.name) for field in dataclasses.fields(plan) if field.name != "outline"] == [
        getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "outline"
    ]
    assert plan.salt.decode() not in repr(plan)


def test_where_no_model_is_images_pass_through_together(tmp_path: Path) -> None:
    plan = make_plan(config(tmp_path, None))
    assert (plan.batch_size, plan.outline, plan.gate) == (PASS_THROUGH_BATCH, None, None)


def test_a_device_that_is_not_there_is_said_before_any_work(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"run\.devices: 'cuda:7' is not available"):
        make_plan(config(tmp_path, model, **{"run.devices": ["cuda:7"]}))


def test_classes_have_the_model_s_names_where_the_data_names_none(tmp_path: Path, model: Path) -> None:
    plan = make_plan(config(tmp_path, model))
    assert plan.outline is not None
    outline = dataclasses.replace(plan.outline, class_names=("cat", "dog"))  # type: ignore[type-var]
    plan = dataclasses.replace(plan, outline=outline)
    stream, classes = open_input(plan)
    assert stream.label_names == classes.names == ("cat", "dog")
    assert classes.by_name  # a number says nothing of them
    named = plan.config.input.model_copy(update={"label_names": ("a", "b")})
    named_plan = dataclasses.replace(plan, config=plan.config.model_copy(update={"input": named}))
    with pytest.raises(
        UserError, match=r"the data set's class 'a' is none of the model's.*has a, b, the model cat, dog"
    ):
        open_input(named_plan)


@pytest.mark.parametrize("command", ["run", "preview", "estimate"])
def test_every_command_reads_with_the_same_names(
    command: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One label is beyond the names that the input gives: it is refused, by whatever reads."""
    source = builders.tar(
        tmp_path / "in.tar",
        [(f"{i}.{ext}", data) for i in range(3) for ext, data in (("png", builders.picture(i)), ("cls", b"%d" % i))],
    )
    content = builders.recipe(source, tmp_path / "out", model, **{"input.label_names": ["cat"], "classes": "numbers"})
    said, problem = list[str | None](), reading.Reader.label_problem

    def heard(self: reading.Reader, sample: Sample) -> str | None:
        said.append(problem(self, sample))
        return said[-1]

    monkeypatch.setattr(reading.Reader, "label_problem", heard)
    made = validate(JobConfig, content, "test")
    match command:
        case "run":
            running.run_job(make_plan(made))
        case "preview":
            try_out(made, 3)
        case _:
            estimate(make_plan(made))
    beyond = [why for why in said if why is not None]
    assert len(said) in (3, 6) or command == "estimate"  # a job looks first; an estimate goes on while it measures
    assert all("the data set names 0 to 0" in why or "the model knows" in why for why in beyond)
    assert len(beyond) / len(said) == pytest.approx(2 / 3, abs=0.1)
