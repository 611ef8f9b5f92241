"""Classes of the data are classes of the model by name, never because their numbers happen to be the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.commands.estimate import estimate
from pipeline.config import validate
from pipeline.engine import transforming
from pipeline.engine.labels import check_first
from pipeline.engine.planning import make_plan
from pipeline.engine.reading import open_input
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.classes import ClassMap, match
from pipeline.job.config import JobConfig
from pipeline.streams.job_records import Manifest
from pipeline.streams.labels import member_label, value_label
from tests import builders

MODEL = ("cat", "dog", "owl")
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(number=st.integers(-(2**63), 2**63 - 1), names=st.lists(texts, max_size=4, unique=True))
def test_a_whole_number_is_one_however_it_is_written(number: int, names: list[str]) -> None:
    for content in (f"{number}", f" {number}\n", f"{number}.0", f"{number:+d}"):
        assert member_label({"cls": content.encode()}, "cls", names).number == number
    assert value_label(number).number == value_label(str(number)).number == number
    assert member_label({"json": json.dumps({"y": number}).encode()}, "json:y").number == number


@given(names=st.lists(texts, min_size=1, max_size=5, unique=True), data=st.data())
def test_a_declared_name_is_its_number_and_no_other_text_is(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert value_label(name, names).number == names.index(name)  # a JSON text is a name first
    other = data.draw(texts.filter(lambda text: text not in names and not any(map(str.isdecimal, text))))
    found = value_label(other, [n for n in names if n != other])
    assert found.number is None or other.strip() in names


@given(content=st.binary(max_size=40))
def test_whatever_stands_there_is_a_number_or_told(content: bytes) -> None:
    for where in ("cls", "cls:field"):
        found = member_label({"cls": content}, where, ("a", "1"))
        assert found.number is None or found.unread is None
        if where == "cls":
            assert found.number is not None or found.unread is not None


@pytest.mark.parametrize(
    ("given", "names", "model", "table"),
    [
        (None, ("owl", "cat"), MODEL, {0: 2, 1: 0}),
        ("numbers", ("owl", "cat"), MODEL, {0: 0, 1: 1}),
        ("numbers", None, MODEL, {0: 0, 1: 1}),
        (None, None, None, {0: 0, 2: 2}),
        (("owl", 0), None, MODEL, {0: 2, 1: 0}),
        ({"kitten": "cat"}, ("owl", "kitten"), MODEL, {0: 2, 1: 0}),
        ({"kitten": "cat", "puppy": 1}, None, MODEL, {0: 0, 1: 1, 2: 0, 3: 1, 4: 2}),  # and cat, dog, owl
        ({"kitten": "cat", "cat": 1}, None, ("cat", "owl", "owl"), {0: 0, 1: 1, 2: None}),
        ({"puppy": 1}, None, None, {0: 1, 1: None}),
        ({5: "cat"}, None, MODEL, {5: 0, 1: None}),
        ({"a": 2, "b": "0"}, ("a", "b"), None, {0: 2, 1: 0}),
    ],
)  # fmt: skip
def test_how_classes_go_together(
    given: ClassMap | None, names: tuple[str, ...] | None, model: tuple[str, ...] | None, table: dict[int, int | None]
) -> None:
    classes = match(given, names, model, 3)
    assert {number: classes.number(number) for number in table} == table


@pytest.mark.parametrize(
    ("given", "names", "model", "why"),
    [
        (None, ("owl", "fox"), MODEL, "class 'fox' is none of the model's.* has owl, fox, the model cat, dog, owl"),
        (None, ("cat",), None, "only numbers them; classes: numbers .* has cat, the model numbers only, 0 to 2"),
        (None, ("cat",), ("cat", "cat", "dog"), "class 'cat' is none of the model's, or two"),
        ({"fox": "cat"}, ("owl", "cat"), MODEL, "'fox' is no class of the data set"),
        ({"owl": "fox"}, ("owl",), MODEL, "'fox' is no class of the model"),
        (("cat", 3), None, MODEL, "3 is no class of the model"),
        (("cat",), ("cat", "dog"), MODEL, "1 classes are listed for 2"),
    ],
)
def test_what_does_not_go_together_is_refused_with_both_lists(
    given: ClassMap | None, names: tuple[str, ...] | None, model: tuple[str, ...] | None, why: str
) -> None:
    with pytest.raises(UserError, match=f"classes: .*{why}") as caught:
        match(given, names, model, 3)
    with pytest.raises(UserError) as secret:
        match(None if given is None else given, names, model, 3, secret=True)
    assert "data set has" in str(caught.value)
    assert "data set has" not in str(secret.value)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the classes `MODEL`."""
    folder = builders.model_folder(tmp_path_factory.mktemp("named"), classes=4)
    (folder / "doppel.json").write_text(json.dumps({"class_names": MODEL, "null_label": 3}))
    return folder


@pytest.fixture
def given_labels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the labels that the model is given in a job."""
    seen, gather = list[int](), transforming.gather

    def heard(*args: Any) -> Any:
        given = gather(*args)
        if given.labels is not None:
            seen.extend(given.labels.tolist())
        return given

    monkeypatch.setattr(transforming, "gather", heard)
    return seen


def labelled(root: Path, labels: list[bytes | None], member: str = "cls") -> Path:
    members = [(f"{i}.png", builders.picture(i)) for i in range(len(labels))]
    members += [(f"{i}.{member}", label) for i, label in enumerate(labels) if label is not None]
    return builders.tar(root / "in.tar", sorted(members, key=lambda named: named[0].partition(".")[0]))


def run(source: Path, model: Path | None, **changes: Any) -> Manifest:
    content = builders.recipe(source, source.parent / "out", model, **changes)
    if source.is_dir():
        content["input"] = {"format": "folder", "path": str(source)}
    return run_job(make_plan(validate(JobConfig, content, "test")))


def test_a_folder_is_conditioned_on_the_classes_that_it_names(
    tmp_path: Path, named: Path, given_labels: list[int]
) -> None:
    """Found on real inputs: the model was given the class whose number was the same."""
    for i, name in enumerate(["owl", "cat", "owl"]):
        (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name / f"{i}.png").write_bytes(builders.picture(i))
    manifest = run(tmp_path / "in", named, **{"model.batch_size": 3})
    assert given_labels == [0, 2, 2]  # cat, owl, owl; the data set's own numbers are 0, 1, 1
    assert manifest.classes == json.loads((tmp_path / "out" / "job.json").read_text())["classes"] == {
        "cat": "cat", "owl": "owl",
    }  # fmt: skip
    written = builders.members_of(next((tmp_path / "out" / "data").glob("*.tar")))
    assert {written[name] for name in written if name.endswith(".cls")} == {b"0", b"1"}


def test_texts_are_read_in_the_names_of_the_model_and_numbers_then_refused(
    tmp_path: Path, named: Path, given_labels: list[int]
) -> None:
    source = labelled(tmp_path, [b"owl", b"cat\n", b"dog"])
    assert run(source, named, **{"model.batch_size": 3}).counts.written == 3
    assert given_labels == [2, 0, 1]
    numbers = labelled(tmp_path / "2", [b"1", b"0"])
    with pytest.raises(UserError, match=r"numbers, and only the model names its classes \(cat, dog, owl\)"):
        run(numbers, named)
    assert not (tmp_path / "2" / "out").exists()  # before any work
    assert run(numbers, named, classes="numbers").counts.written == 2


def test_a_recipe_says_which_class_is_which(tmp_path: Path, named: Path, given_labels: list[int]) -> None:
    source = labelled(tmp_path, [b"hoot", b"meow"])
    by_hand = {"classes": {"meow": "cat", "hoot": "owl"}, "model.batch_size": 2}
    manifest = run(source, named, **by_hand)
    assert given_labels == [2, 0]
    assert manifest.classes == {"meow": "cat", "hoot": "owl", "cat": "cat", "dog": "dog", "owl": "owl"}
    content = builders.recipe(source, tmp_path / "other", named, **by_hand)
    assert "# classes, data set → model: meow → cat, hoot → owl" in estimate(
        make_plan(validate(JobConfig, content, "test"))
    )
    with pytest.raises(UserError, match="classes: the model is given no labels"):
        run(source, named, **by_hand | {"operator.condition": "dog"})


def test_a_mapping_says_only_what_has_another_name(tmp_path: Path, named: Path, given_labels: list[int]) -> None:
    run(labelled(tmp_path, [b"hoot", b"dog", b"cat"]), named, **{"classes": {"hoot": "owl"}, "model.batch_size": 3})
    assert given_labels == [2, 1, 0]
    numbers = labelled(tmp_path / "2", [b"0"])
    with pytest.raises(UserError, match=r"they are numbers, and only names are mapped \(hoot, cat, dog, owl\)"):
        run(numbers, named, classes={"hoot": "owl"})  # 0 is not the first of a mapping


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"input.label_names": ["owl", "cat"]},
            r"\(such as 'Fox'\).*: the data set names owl, cat, the model has cat, dog, owl; complete .* by Fox, at",
        ),
        ({}, r"the model has cat, dog, owl; map them by hand, as in classes: \{Fox: CLASS, …\}"),
        ({"classes": {"hoot": "owl"}}, r"the model has cat, dog, owl; map them by hand, as in classes: \{Fox: CLASS"),
        ({"classes": ["owl", "cat"]}, r"the model has cat, dog, owl; map them by hand, as in classes: \{Fox: CLASS"),
    ],
)
def test_advice_for_an_unknown_name_shows_the_names_that_there_are(
    tmp_path: Path, named: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        run(labelled(tmp_path, [b"Fox", b"owl"]), named, **changes)
    declared = {"input.label_names": ["owl", "cat"]}
    with pytest.raises(UserError, match=r"the data set names owl, cat; complete input\.label_names by Fox"):
        run(labelled(tmp_path, [b"Fox", b"owl"]), None, **declared)  # a model has no part in it


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": ["owl", "cat"]}, "label 2 is out of range: classes holds only 0, 1"),
        ({"classes": {1: "owl", 0: "cat"}}, "label 2 is out of range: classes holds only 0, 1"),
        ({"classes": "numbers"}, None),
        ({"input.label_names": ["owl", "cat"]}, "label 2 is out of range: the data set names 0 to 1"),
    ],
)
def test_the_reason_for_a_number_without_a_class_is_true(
    tmp_path: Path, named: Path, changes: dict[str, Any], why: str | None
) -> None:
    counts = run(labelled(tmp_path, [b"0", b"1", b"2"]), named, **changes).counts
    assert counts.written == (3 if why is None else 2)
    if why is not None:
        reasons = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")
        assert [json.loads(c)["reason"] for n, c in reasons.items() if n.endswith("reason.json")] == [why]


def test_a_label_that_cannot_be_read_fails_the_job_unless_tolerated(tmp_path: Path) -> None:
    source = labelled(tmp_path, [b"1", *[b"%d" % (i % 3) for i in range(80)], b"cat", b"1.5"])
    why = r"2 labels cannot be read so far \(such as 'cat', '1.5'\), labels\.tolerate allows 0: say .*: \[cat\]"
    with pytest.raises(UserError, match=why):
        run(source, None, **{"run.memory": 1 << 20})
    assert not list((tmp_path / "out" / "data").iterdir())
    manifest = run(source, None, **{"labels.tolerate": 2})
    assert (manifest.counts.written, manifest.counts.unread) == (83, 2)
    assert sum(manifest.notes.values()) == 2
    assert builders.members_of(tmp_path / "out" / "data" / "in.tar")["81.cls"] == b"cat"
    with pytest.raises(UserError, match=r"2 labels cannot be read so far, labels\.tolerate allows 1"):
        run(source, None, **{"labels.tolerate": 1})  # though all is finished


def test_several_classes_pass_through_and_are_refused_where_one_is_needed(tmp_path: Path, model: Path) -> None:
    source = labelled(tmp_path, [b"[0, 2]", b"0.5 0.5 0"])
    manifest = run(source, None)
    assert (manifest.counts.written, manifest.counts.unread) == (2, 0)
    written = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert [written[f"{i}.cls"] for i in range(2)] == [b"[0, 2]", b"0.5 0.5 0"]
    with pytest.raises(UserError, match=r"none of the first 2 .* several classes or weights, and the model needs"):
        run(source, model, **{"output.path": str(tmp_path / "other")})


def test_a_label_that_no_sample_has_is_refused_before_any_work(tmp_path: Path, model: Path) -> None:
    source = labelled(tmp_path, [b'{"kind": 1, "n": 2}'] * 3, "json")
    with pytest.raises(UserError, match="none of the first 3 samples has 'json:label'; there are json:kind, json:n"):
        run(source, None, **{"input.label": "json:label"})
    with pytest.raises(UserError, match="none of the first 3 samples has a label that can be used: no class label"):
        run(source, model)
    assert not (tmp_path / "out").exists()
    assert run(source, model, **{"input.label": "json:kind"}).counts.written == 3


def test_in_private_mode_no_names_of_fields_or_classes_are_shown(tmp_path: Path, named: Path) -> None:
    def told(label: bytes, member: str, **changes: Any) -> str:
        source = labelled(tmp_path / member, [label], member)
        plan = make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", named, **changes), "test"))
        secret = {"anonymity": AnonymityConfig.model_construct()}
        plan = replace(plan, config=plan.config.model_copy(update=secret))
        stream, classes = open_input(plan)
        with pytest.raises(UserError) as caught:
            check_first(plan, stream.shards, classes)
        return str(caught.value)

    fields = told(b'{"Lovelace": 1}', "json", **{"input.label": "json:label"})
    assert fields == "input.label: none of the first 1 samples has 'json:label'"
    unknown = told(b"Lovelace", "cls", **{"input.label_names": ["cat", "dog"]})
    assert not any(name in unknown for name in ("Lovelace", "cat", "dog", "owl"))
