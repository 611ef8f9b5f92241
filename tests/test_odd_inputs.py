"""Odd, damaged and hostile inputs to the command: one line each, the right code, and nothing written elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import BAD_INPUT, FAILED, main
from tests import builders
from tests.streams.made import lay, picture
from tests.streams.unsteady import Served, unsteady_server

ODD: dict[str, Callable[[Path], str]] = {
    "a link to itself": lambda folder: str(folder / "self"),
    "below a link to itself": lambda folder: str(folder / "self" / "x"),
    "below a file": lambda folder: str(folder / "file" / "x"),
    "a long name": lambda folder: str(folder / ("n" * 300)),
    "a long path": lambda folder: str(folder) + "/n" * 3000,
    "NUL": lambda folder: f"{folder}/a\0b",
    "empty": lambda folder: "",
    "a URL": lambda folder: "s3://bucket/x",
    "a device": lambda folder: "/dev/null",
    "memory of another": lambda folder: "/proc/1/mem",
    "nobody's home": lambda folder: "~nobody-of-this-name/x",
    "a broken link": lambda folder: str(folder / "broken" / "x"),
    "an unknown protocol": lambda folder: "nosuch://x/y.tar",
    "half a surrogate": lambda folder: f"{folder}/\udcff",
}
PLACES: dict[str, Callable[[str], list[str]]] = {
    "recipe": lambda place: ["run", place],
    "extends": lambda place: ["run", "RECIPE", "--set", set_to("extends", place)],
    "output": lambda place: ["run", "RECIPE", "--set", set_to("output.path", place)],
    "salt": lambda place: ["run", "RECIPE", "--set", set_to("run.salt_file", place)],
    "urls": lambda place: ["run", "RECIPE", "--set", set_to("input.urls", place)],
    "folder": lambda place: ["run", "RECIPE", "--set", set_to("input", {"format": "folder", "path": place})],
    "hub": lambda place: ["run", "RECIPE", "--set", set_to("input", {"format": "hub", "path": place})],
    "data files": lambda place: [
        "run", "RECIPE", "--set", set_to("input", {"format": "hub", "path": "parquet", "data_files": [place]}),
    ],
    "captions": lambda place: ["run", "RECIPE", "--set", set_to("input", {"format": "captions", "urls": [place]})],
    "mask": lambda place: [
        "run", "MODEL", "--set", "operator={name: inpaint}", "--set", set_to("mask.file", place),
    ],
    "model": lambda place: ["run", "MODEL", "--set", set_to("model.path", place)],
    "preview": lambda place: ["preview", "MODEL", "-n", "1", "-o", place],
    "originals": lambda place: ["audit", place, "FOLDER"],
    "release": lambda place: ["audit", "FOLDER", place],
    "evidence": lambda place: ["audit", "FOLDER", "FOLDER", "--out", place],
    "edits": lambda place: ["edits", "edits_by_rules", "--set", set_to("output", place)],
    "certificates": lambda place: [
        "calibrate-faces", "calibrate_lfw", "--set", set_to("data", {"format": "folder", "path": place}),
    ],
    "filter": lambda place: ["filter", "filter_fashion", "--set", set_to("store", place)],
}  # fmt: skip


def set_to(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


@pytest.fixture
def desk(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "desk"
    lay(folder, {"file": b"text", "empty/.keep": b"", "c/1.png": picture(1)})
    (folder / "self").symlink_to(folder / "self")
    (folder / "broken").symlink_to(folder / "nowhere")
    builders.shard(folder / "in.tar", 2)
    for name, path in (("RECIPE", None), ("MODEL", model)):
        content = builders.recipe(folder / "in.tar", tmp_path / "out", path)
        (tmp_path / name).write_text(yaml.safe_dump(content))
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def line_of(arguments: list[str], capsys: pytest.CaptureFixture[str], codes: tuple[int, ...]) -> str:
    code = main(arguments)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("doppel: ")]
    assert code in codes, said
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", PLACES)
def test_odd_places(odd: str, place: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(desk.rglob("*"))
    command = PLACES[place](ODD[odd](desk))
    harmless = {("evidence", "empty")}
    if (place, odd) in harmless:
        return
    line_of(command, capsys, (FAILED, BAD_INPUT))
    assert sorted(desk.rglob("*")) == before
    assert not (desk.parent / "s3:").exists()


OPTIONS = {
    "limit=[1,": "not valid YAML", "limit=-1": "limit: ", "limit=1e400": "limit: ", "limit=" + "9" * 5000: "not valid",
    "=": "expected the form", "a": "expected the form", "input=[]": "input: ", "input.image=[a]": "input.image: ",
    "input.urls=[[a]]": "input.urls", "input.urls=[]": "", "input={a: &a [*a]}": "alias", "{}={}": "unknown key",
    "output=null": "output: ", "input.format=null": "input: ", "input.label=[1]": "input.label: ",
    "1=2": "unknown key '1'", "output.path={a: 1}": "output.path: ", "output.path=~": "output.path: ",
    "image={fit: &x [*x]}": "alias", "operator=" + "[" * 1000: "levels",
    "input.urls={1: 2}": "input.urls: ", "output={1: 2, path: x}": "output", "kind=audit": "kind",
    "input.bounds={files: 0}": "input.bounds.files: ", "output.path=2026-01-01": "output.path: ",
    "input.urls='{0..99999999}'": "stands for 1e+08 files", "output.path=\ud800": "",
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: ascii(option)[:30])
def test_odd_options(option: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(["run", "RECIPE", "--set", option], capsys, (FAILED, BAD_INPUT))
    assert OPTIONS[option] in line
    assert len(line) < 600
    assert not (desk.parent / "out" / "data").exists()


def test_keys_that_are_no_names(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("1: 2\n", "null: x\n", "true: [1]\n", "2026-01-01: x\n", "? !!binary aGk=\n: 1\n", "1.5: {a: b}\n"):
        (desk / "odd.yaml").write_text((desk.parent / "RECIPE").read_text() + text)
        assert str(desk / "odd.yaml") in line_of(["run", str(desk / "odd.yaml")], capsys, (BAD_INPUT,))


def test_a_data_set_with_a_script_is_not_run(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(desk / "script", {"script.py": b"open('/tmp/doppel-was-here', 'w')", "data.csv": b"a\n1\n"})
    command = ["run", "RECIPE", "--set", set_to("input", {"format": "hub", "path": str(desk / "script")})]
    line_of(command, capsys, (FAILED, BAD_INPUT))
    assert not os.path.exists("/tmp/doppel-was-here")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
@pytest.mark.parametrize("format", ["webdataset", "captions", "hub"])
def test_servers_that_refuse(status: int, format: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = {"webdataset": "s.tar", "captions": "s.jsonl", "hub": "s.parquet"}[format]
    with unsteady_server({f"/{name}": Served(b"x" * 99, [status] * 99, [status] * 99)}) as url:
        where = {"path": f"{url}/{name}"} if format == "hub" else {"urls": f"{url}/{name}"}
        command = ["run", "RECIPE", "--set", set_to("input", {"format": format, **where})]
        line = line_of(command, capsys, (FAILED,))
    assert f"{url}/{name} cannot be read: HTTP status {status}" in line
