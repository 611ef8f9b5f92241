"""YAML from strangers: bounded before anything is made of it, no key twice, one sentence for each mistake."""

from __future__ import annotations

import math
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import BAD_INPUT, main
from pipeline.errors import UserError
from pipeline.plain_yaml import DEEPEST, LARGEST, MOST_NODES, parse_yaml, read_yaml_file

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"m{i}: &m{i} {{<<: [*{'a' if i == 0 else f'm{i - 1}'}, *{'a' if i == 0 else f'm{i - 1}'}], y{i}: 1}}\n"
    for i in range(40)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3 * DEEPEST))

REFUSED = {
    "laughs": (LAUGHS, "values, aliases counted in full"),
    "merges": (MERGES, "values, aliases counted in full"),
    "a chain of aliases": (CHAIN, "levels in one another"),
    "itself": ("a: &a [*a]", "an alias stands for something that it lies in"),
    "itself, deep": ("a: &a {b: {c: [1, *a]}}", "an alias stands for something that it lies in"),
    "deep lists": ("a: " + "[" * 5000, "levels in one another"),
    "deep mappings": ("{a: " * 5000, "levels in one another"),
    "deep blocks": ("".join(f"{' ' * i}a:\n" for i in range(300)), "levels in one another"),
    "many": ("[" + "1," * (MOST_NODES + 1) + "]", "values, aliases"),
    "large": ("#" * (LARGEST + 1), "bytes"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "the key 'a' stands twice in one mapping, again in line 3"),
    "two merges": ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "the key '<<' stands twice"),
    "a key twice, quoted": ("a: 1\n'a': 3\n", "the key 'a' stands twice"),
    "a key twice, below": ("x: [{b: 1, b: 1}]", "the key 'b' stands twice"),
    "a key twice, as numbers": ("1: a\n0x1: b", "the key 1 stands twice"),
    "no alias": ("a: *b", "undefined alias"),
    "no date": ("a: 2026-13-45", "month"),
    "no number": ('a: !!int ""', "not valid YAML"),
    "no float": ('a: !!float ""', "not valid YAML"),
    "no truth": ("a: !!bool maybe", "not valid YAML"),
    "no time": ("a: !!timestamp x", "not valid YAML"),
    "no bytes": ("a: !!binary ü", "not valid YAML"),
    "huge number": ("a: " + "9" * 5000, "not valid YAML"),
    "a list as key": ("? [a]\n: b", "unhashable"),
    "code": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2", "but found another document"),
    "no end": ("a: [1,", "not valid YAML"),
    "control": ("a: \x00", "not valid YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    text, said = REFUSED[name]
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "here")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(caught.value)
    assert str(caught.value).startswith("here ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert peak < 200 << 20
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - {"large", "control"}))
def test_the_same_in_a_recipe_and_in_an_option(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(REFUSED[name][0])
    for command in (
        ["run", str(tmp_path / "x.yaml")], ["audit", str(tmp_path / "x.yaml")],
        ["run", "demo", "--set", f"limit={REFUSED[name][0]}"],
    ):  # fmt: skip
        assert main(command) == BAD_INPUT
        said = capsys.readouterr().err
        assert said.startswith("doppel: ")
        assert len(said.splitlines()) == 1
        assert len(said) < 700


@pytest.mark.parametrize("kind", ["self", "folder", "latin", "nul"])
def test_files_that_cannot_be_read(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ("a\0b" if kind == "nul" else "x.yaml")
    if kind == "self":
        file.symlink_to(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "latin":
        file.write_bytes("größe: 1".encode("latin-1"))
    for command in ("run", "audit", "compare", "filter", "edits", "calibrate", "calibrate-faces", "train-denoiser"):
        assert main([command, str(file)]) == BAD_INPUT
        said = capsys.readouterr().err
        assert said.startswith("doppel: ")
        assert len(said.splitlines()) == 1


def test_a_recipe_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    def refuse(*given: Any, **options: Any) -> None:
        raise PermissionError(13, os.strerror(13), "x.yaml")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(UserError, match=r"x\.yaml cannot be read \(Permission denied\)"):
        read_yaml_file(tmp_path / "x.yaml")


def test_aliases_and_merges_within_bounds_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    assert parse_yaml(text, "here") == yaml.safe_load(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_plain_values_come_back(value: Any) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(text, "here") == parse_yaml(text.encode(), "here") == yaml.safe_load(text)
    assert not isinstance(value, float) or math.isclose(value, yaml.safe_load(text)) or math.isinf(value)


@given(st.text(alphabet=" \n[]{}:,-&*!'\"|>%@`?#abc01", max_size=60))
def test_any_text_is_a_value_or_one_sentence(text: str) -> None:
    said = ""
    try:
        parse_yaml(text, "here")
    except UserError as error:
        said = str(error)
    assert "\n" not in said
