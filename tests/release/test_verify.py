"""`doppel verify`: one screen, its exit codes, and what is out of date."""

from __future__ import annotations

import hashlib
import os
from datetime import date, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.cli import main
from pipeline.commands.verify import verify_release
from pipeline.errors import UserError
from pipeline.release import check_release
from pipeline.release.signing import public_key
from pipeline.streams.places import open_store
from tests.finished_job import SALT, finished_job, people, refuse_seal, settings_of
from tests.release.keys import PUBLIC


def test_one_screen_says_what_was_proven_and_what_not(
    sound: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(sound), "--key", str(keys / "mine.pub")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines[1:])) <= 140
    said = "\n".join(lines)
    for words in (": sound", f"ok      signature: Ed25519, by the holder of the key given, {PUBLIC}", "proven:"):
        assert words in said
    for words in ("not proven:", "T2, an attacker who holds the very source photograph: NOT SOLVED", "not stated"):
        assert words in said


def test_other_ways_to_know_whose_it_is(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = hashlib.sha256((sound / "RELEASE.json").read_bytes()).hexdigest()
    (tmp_path / "salt").write_bytes(SALT)
    (tmp_path / "false").write_bytes(b"another secret of the tests")
    for options, code in (
        (["--sha256", stated.upper()], 0), (["--sha256", "0" * 64], 1), (["--salt-file", str(tmp_path / "salt")], 0),
        (["--salt-file", str(tmp_path / "false")], 1), ([], 2), (["--sha256", "7"], 2), (["--key", "/nowhere"], 2),
    ):  # fmt: skip
        assert main(["verify", str(sound), *options]) == code, options
        said = capsys.readouterr()
        assert ("NOT SOUND" in said.out) == (code == 1)
        assert len(said.err.splitlines()) == (code == 2)


def test_a_release_in_an_object_store_is_verified_as_one_on_a_disk(
    sound: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"memory://{uuid4().hex}/release"
    store, command = open_store(place), ["verify", place, "--key", str(keys / "mine.pub")]
    for file in sound.rglob("*"):
        if file.is_file():
            store.put(file.relative_to(sound).as_posix(), file.read_bytes())
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{place}: sound")
    store.put("data/more.tar", b"")
    assert main(command) == 1
    assert "data/more.tar is not listed" in capsys.readouterr().out


def test_names_of_files_do_not_steer_a_terminal(copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"\x1b[2J", b"a\nproven: all", b"\xff"):
        (copy / os.fsdecode(name)).write_bytes(b"")
    for number in range(10):
        (copy / f"more-{number}").write_bytes(b"")
    assert main(["verify", str(copy), "--key", str(keys / "mine.pub")]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert not any(line.startswith("proven") for line in said.splitlines())
    assert "and 8 more" in said


TODAY = date.today()


@pytest.mark.parametrize("name", ["review_by", "expires"])
def test_what_is_out_of_date_is_not_released(name: str, tmp_path: Path) -> None:
    finished_job(tmp_path / "job", [people(6)])
    for days, fits in ((-1, False), (0, True), (1, True)):
        config = settings_of(tmp_path, assessment={name: TODAY + timedelta(days)})
        if fits:
            check_release(config, str(tmp_path / "job"), SALT)
        else:
            with pytest.raises(
                UserError, match=rf"^release\.assessment\.{name} is [\d-]+, and today is [\d-]+: assess"
            ):
                check_release(config, str(tmp_path / "job"), SALT)
    refuse_seal(tmp_path)


def test_an_expired_assessment_fails_and_an_overdue_review_is_said(sound: Path, keys: Path) -> None:
    key = public_key(str(keys / "mine.pub"), "--key")
    fresh, overdue, expired = (
        verify_release(sound, key=key, today=date.fromisoformat(day))
        for day in ("2999-01-01", "2999-06-01", "2999-06-02")
    )
    assert fresh.problems == overdue.problems == []
    assert "OVERDUE" not in fresh.screen
    assert "OVERDUE" in overdue.screen
    assert expired.problems == ["the assessment holds no longer: it expired on 2999-06-01"]
