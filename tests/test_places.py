"""Options that name a place: `~` is home, NUL is no part of a path, and a URL is refused where none can be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.cli import BAD_INPUT, audit_config, build_parser, main
from pipeline.commands.preview import preview
from pipeline.config import load_config
from pipeline.errors import UserError
from pipeline.hooks.live.background import BackgroundAugmenter
from pipeline.hooks.store import NeighbourStore, read_weights
from pipeline.job.config import JobConfig
from pipeline.section import LocalPath, local_path
from tests.test_recipes import CLASSES

NO_PLACES = [
    "s3://bucket/x", "hf://datasets/a/b", "file:///tmp/x", "https://host/x", "S3://b", "gs+v2://b", "s3:/bucket/x",
    "zip://a.tar::s3://b/c.zip", "simplecache::s3://b/c", "/tmp/s3://b", "", "a\0b", "~nobody-of-this-name/x",
]  # fmt: skip
PLACES = {
    "path", "audit", "salt_file", "sign", "file", "certificates", "output", "release", "store",
}  # fmt: skip
"""Keys that name a place, wherever they are texts."""


@pytest.mark.parametrize("place", NO_PLACES)
def test_what_is_no_place_here_is_refused(place: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LocalPath).validate_python(place)


@pytest.mark.parametrize(
    "place", ["a", "./~", "/x/~y", "a:b", "C:x", "embedded:x/y", "..", "a b", "ü", "2026-01-01T10:00"]
)
def test_a_path_stays_as_it_is(place: str) -> None:
    assert local_path(place) == place


def test_home_is_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [local_path(place) for place in ("~", "~/x")] == ["/home/me", "/home/me/x"]


def texts(kind: type[BaseModel], seen: set[type]) -> Iterator[tuple[str, str, bool]]:
    """(section, key, whether it is a place) of all keys that take text, in all sections that a recipe can have."""
    if kind in seen:
        return
    seen.add(kind)
    for name, field in kind.model_fields.items():
        parts = [field.annotation, *flat(field.annotation)]
        if str in parts:
            checked = any(re.search("function (local_path|place) ", repr(part)) for part in [*field.metadata, *parts])
            yield kind.__name__, name, checked
        for part in parts:
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from texts(part, seen)


def flat(annotation: Any) -> Iterator[Any]:
    for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield part
        yield from flat(part)


def test_every_section_checks_its_places() -> None:
    seen, found = set[type](), list[tuple[str, str, bool]]()
    for recipe in CLASSES:
        found += texts(recipe, seen)
    checked = {(section, key) for section, key, is_place in found if is_place}
    named = {"JudgeConfig", "Upscaler", "ModelConfig", "HubInput"}
    assert {(s, k) for s, k, _ in found if k in PLACES and not (k == "path" and s in named)} <= checked
    assert len(checked) >= 18, sorted(checked)
    assert {key for _, key in checked} <= PLACES


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("file:///tmp/out", "a folder on this machine is named by its path"),
        ("s3:/bucket/out", "a folder or a URL such as s3://bucket/folder is expected"),
        ("s3://me:secret@bucket/out", "credentials in a URL are refused"),
        ("s3://bucket/out?version=1", "a URL with a query is expected nowhere"),
        ("a\\0b", "a path is expected"),
    ],
)
def test_a_job_writes_nothing_where_its_output_is_nowhere(
    place: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["run", "demo", "--set", f'output.path="{place}"'], ["demo", "--out", place.replace("\\0", "\0")]):
        assert main(command) == BAD_INPUT
        said = capsys.readouterr().err
        assert f"output.path: {sentence}" in said
        assert not {"secret", "version"} & set(re.findall(r"\w+", said))
        assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_output_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(JobConfig, "demo", ["output.path=~/x"]).output.path == str(tmp_path / "x")
    given = build_parser().parse_args(["audit", "a.tar", "~/r", "--out", "~/o", "--salt-file", "~/s"])
    config = audit_config(given)
    assert [config.release, config.output, config.salt_file] == [str(tmp_path / name) for name in "ros"]


@pytest.mark.parametrize(
    "options", [["-o", "s3://b/sheet.png"], ["-o", "sheet.xyz"], ["-o", "sheet"], ["--animate", "hf://a/b.gif"]]
)
def test_previews_are_drawn_here(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "tile_morph" if "--animate" in options else "demo"
    assert main(["preview", recipe, *options]) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("doppel: --")
    assert len(said.splitlines()) == 1


def test_folders_that_hooks_are_given() -> None:
    for wrong in ("s3://b/store", Path("s3://b/store"), "a\0b"):
        with pytest.raises(UserError, match="folder: a p"):
            NeighbourStore.open(wrong)
        with pytest.raises(UserError, match="folder: a p"):
            BackgroundAugmenter({"name": "boomerang", "t_boom": 0.4}, "m", [0], wrong, capacity=1)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="weights: a p"):
            read_weights(wrong)
    with pytest.raises(UserError, match="--output: a p"):
        preview("demo", sheet="s3://b/x.png")
