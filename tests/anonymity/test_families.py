"""Recognisers of one family are one witness: alone they judge from .9 on, or the recipe says that it accepts less."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.anonymity.faces.recognise import FAMILIES
from pipeline.anonymity.gate import families
from pipeline.anonymity.gate.families import default_recognisers, families_of, one_family_note
from pipeline.config import dump, validate
from pipeline.engine import planning
from pipeline.engine.planning import make_plan
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from tests import builders

ONE, TWO = ["Dlib", "dlib-chip"], ["Dlib", "dlib-chip", "Facenet"]


def recipe(recognisers: list[str] | None = ONE, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"anonymity": {}} if recognisers is None else {"anonymity.recognisers": recognisers}
    content = builders.recipe("a.tar", Path("out"), Path("model"), **given, **changes)
    del content["operator"]["t_boom"]
    content["operator"].update({key.removeprefix("operator."): v for key, v in changes.items() if "operator." in key})
    return content


def job(*args: Any, **changes: Any) -> JobConfig:
    return validate(JobConfig, recipe(*args, **changes), "recipe")


def levels(config: JobConfig) -> list[float]:
    assert config.anonymity is not None
    return [level.low for level in (config.operator.t_boom, *config.anonymity.ladder)]  # type: ignore[union-attr]


def test_one_family_begins_at_nine_tenths() -> None:
    assert levels(job()) == [0.9, 0.9, 0.95]
    assert levels(job(**{"operator.t_boom": 0.95})) == [0.95, 0.9, 0.95]
    assert levels(job(**{"anonymity.ladder": []})) == [0.9]
    assert levels(job(["dlib-chip"], **{"operator.t_boom": [0.9, 1.0], "anonymity.ladder": [1.0]})) == [0.9, 1.0]


def test_two_families_and_accepted_ones_keep_the_recipes_own_levels() -> None:
    assert levels(job(TWO, **{"operator.t_boom": 0.4, "anonymity.ladder": [0.5]})) == [0.4, 0.5]
    accepted = {"anonymity.one_family": "accepted"}
    assert levels(job(**accepted, **{"operator.t_boom": 0.4, "anonymity.ladder": [0.5]})) == [0.4, 0.5]
    assert levels(job(**accepted)) == levels(job(TWO)) == [0.4]  # the operator's own default


@pytest.mark.parametrize(
    ("changes", "place", "found"),
    [
        ({"operator.t_boom": 0.5}, "operator.t_boom", "0.5"),
        ({"operator.t_boom": [0.8, 1.0]}, "operator.t_boom", "[0.8, 1]"),
        ({"operator.t_boom": {"sigma": 50.0}}, "operator.t_boom", "{sigma: 50}"),
        ({"anonymity.ladder": [0.95, 0.89]}, "anonymity.ladder[1]", "0.89"),
    ],
)
def test_one_family_may_not_go_lower(changes: dict[str, Any], place: str, found: str) -> None:
    with pytest.raises(UserError, match="one_family: accepted") as raised:
        job(**changes)
    assert f"{place}: all recognisers of the gate are of one family (dlib)" in str(raised.value)
    assert f"found is {found}:" in str(raised.value)


def test_a_bound_needs_no_second_family() -> None:
    assert job(**{"operator.t_boom": {"bound": 0.01}}).operator.sought == 0.01  # type: ignore[union-attr]


def test_another_word_for_accepted_is_an_error() -> None:
    with pytest.raises(UserError, match="one_family"):
        job(**{"anonymity.one_family": True})


def test_operators_without_a_level_are_not_asked_for_one() -> None:
    content = recipe(**{"anonymity.one_family": None})
    content["operator"] = {"name": "inpaint", "steps": 20}
    content["mask"] = {"file": "mask.png"}
    assert validate(JobConfig, content, "recipe").anonymity.ladder == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("present", [True, False])
def test_the_default_takes_both_families_where_both_are_present(present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "available", lambda name: present)
    names = ("Dlib", "dlib-chip", "faceres") if present else ("Dlib", "dlib-chip")
    assert default_recognisers() == names
    assert families_of(names) == (("dlib", "faceres") if present else ("dlib",))
    config = job(None)
    assert config.anonymity is not None
    assert config.anonymity.recognisers == names
    assert f"recognisers:\n  - {names[0]}" in dump(config)  # the resolved recipe names them
    assert levels(config)[0] == (0.4 if present else 0.9)


def test_families_count_once_and_unknown_names_for_themselves() -> None:
    assert families_of(["dlib-chip", "Dlib"]) == ("dlib",)
    assert families_of(["Facenet", "Facenet512", "Dlib", "somebody's"]) == ("dlib", "facenet", "somebody's")
    assert families_of(FAMILIES) == tuple(sorted(set(FAMILIES.values())))


def test_the_command_says_that_one_family_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOPPEL_SALT", "a secret of these tests")
    content = recipe(**{"operator.t_boom": 0.9})
    content["model"]["path"] = str(builders.model_folder(tmp_path / "model", classes=None))
    content["input"]["urls"] = str(builders.shard(tmp_path / "in" / "a.tar", 1))
    for found, said in ((("dlib",), 1), (("dlib", "faceres"), 0)):
        monkeypatch.setattr(planning, "facts_of_gate", lambda *_, found=found: Facts(found))
        notes = make_plan(validate(JobConfig, content, "recipe")).notes
        assert sum("one family (dlib)" in note for note in notes) == said


class Facts(SimpleNamespace):
    """So much of a gate's facts as a plan needs."""

    def __init__(self, found: tuple[str, ...]) -> None:
        super().__init__(families=found)

    def model_dump(self) -> dict[str, Any]:
        return {"families": list(self.families)}


def test_the_note_is_for_one_family_only() -> None:
    assert one_family_note(("dlib", "faceres")) is None
    assert "(dlib)" in str(one_family_note(("dlib",)))
