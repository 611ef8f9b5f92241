"""Releases of strangers: files that are extra or elsewhere, and a RELEASE.json of anything."""

from __future__ import annotations

import json
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.commands.verify import verify_release
from pipeline.release import sealing, verify
from pipeline.release.signing import public_key
from tests.finished_job import SALT


def case(copy: Path) -> None:
    (copy / "README.md").rename(copy / "readme.md")


def twin(copy: Path) -> None:
    shutil.copy(copy / "README.md", copy / "Readme.md")


def hidden(copy: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"")


def another_tar(copy: Path) -> None:
    shutil.copy(copy / "data" / "release-00000.tar", copy / "data" / "release-00002.tar")


def folder(copy: Path) -> None:
    (copy / "data" / "release-00002.tar").mkdir()


def pipe(copy: Path) -> None:
    os.mkfifo(copy / "data" / "release-00002.tar")


def linked_seal(copy: Path) -> None:
    (copy / "RELEASE.json").rename(copy.parent / "elsewhere")
    (copy / "RELEASE.json").symlink_to(copy.parent / "elsewhere")


def piped_seal(copy: Path) -> None:
    (copy / "RELEASE.json").unlink()
    os.mkfifo(copy / "RELEASE.json")


def linked_data(copy: Path) -> None:
    (copy / "data").rename(copy.parent / "elsewhere")
    (copy / "data").symlink_to(copy.parent / "elsewhere")


def linked_tar(copy: Path) -> None:
    (copy / "data" / "release-00000.tar").rename(copy.parent / "elsewhere")
    (copy / "data" / "release-00000.tar").symlink_to(copy.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "sentences"),
    [
        (case, ["readme.md is not listed", "README.md is missing"]),
        (twin, ["Readme.md is not listed"]),
        (hidden, [".DS_Store is not listed"]),
        (another_tar, ["data/release-00002.tar is not listed"]),
        (folder, ["data/release-00002.tar is not listed"]),
        (pipe, ["data/release-00002.tar is not listed"]),
        (linked_seal, ["RELEASE.json is not a regular file"]),
        (piped_seal, ["RELEASE.json is not a regular file"]),
        (linked_tar, ["data/release-00000.tar is not a regular file"]),
        (
            linked_data,
            ["data is not a folder", "data/release-00000.tar is missing", "data/release-00001.tar is missing"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_extra_or_elsewhere(spoil: Any, sentences: list[str], copy: Path, keys: Path) -> None:
    spoil(copy)
    assert verify(copy, None, public_key(str(keys / "mine.pub"), "--key")) == sentences
    assert main(["verify", str(copy), "--key", str(keys / "mine.pub")]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["data", "data/release-00000.tar", "RELEASE.json"])
def test_what_cannot_be_read_is_not_proven(name: str, copy: Path, keys: Path) -> None:
    mode = (copy / name).stat().st_mode
    (copy / name).chmod(0)
    try:
        (problem,) = verify(copy, None, public_key(str(keys / "mine.pub"), "--key"))
    finally:
        (copy / name).chmod(mode)
    assert "cannot be read" in problem


def test_an_error_of_the_disk_is_a_problem_of_the_release(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> str:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(sealing, "content_hash", fail)
    assert verify(copy)[0] == "ASSESSMENT.md cannot be read (Input/output error)"


def test_a_strange_hmac_is_no_crash(copy: Path) -> None:
    content = json.loads((copy / "RELEASE.json").read_bytes())
    for change in ({"hmac": "ä"}, {"signer": "\u001b[2J"}, {"signature": "00"}, {"signer": 7}):
        (copy / "RELEASE.json").write_text(json.dumps({**content, **change}))
        assert verify(copy, SALT)
        assert "\x1b" not in verify(copy, SALT)[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] * bool(path) + [found for key, value in inside for found in places(value, (*path, key))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), VALUES)
def test_whatever_stands_in_it_is_a_sentence_and_never_a_proof(
    sound: Path, keys: Path, data: st.DataObject, value: Any
) -> None:
    """A stranger writes RELEASE.json, and computes no digest."""
    before = (sound / "RELEASE.json").read_bytes()
    content = json.loads(before)
    *path, last = data.draw(st.sampled_from(places(content)))
    inner = content
    for key in path:
        inner = inner[key]
    unchanged = type(inner[last]) is type(value) and inner[last] == value
    inner[last] = value
    key = public_key(str(keys / "mine.pub"), "--key")
    try:
        (sound / "RELEASE.json").write_text(json.dumps(content))
        found = verify_release(sound, key=key, salt=SALT, today=date(2027, 1, 1))
    finally:
        (sound / "RELEASE.json").write_bytes(before)
    assert unchanged or found.problems
    assert all("\n" not in problem for problem in found.problems)


@pytest.mark.parametrize("text", ["[" * n + "]" * n for n in (100, 300, 900, 5000, 100_000)] + ['"\\ud800"', "NaN"])
def test_texts_that_no_release_says(text: str, copy: Path, keys: Path) -> None:
    content = json.loads((copy / "RELEASE.json").read_bytes())
    changed = json.dumps({**content, "facts": {"a": "HERE"}}).replace('"HERE"', text)
    (copy / "RELEASE.json").write_text(changed)
    assert verify(copy, SALT, public_key(str(keys / "mine.pub"), "--key"))
