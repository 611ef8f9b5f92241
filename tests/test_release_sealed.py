"""No half release is ever sealed, and a sealed one that was touched is known."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audit.examining import authenticity
from pipeline.audit.task import Audit, check
from pipeline.errors import UserError
from pipeline.release import check_release, publish, seal, verify
from pipeline.release.manifest import ReleaseManifest, text_of
from pipeline.release.privacy import derive
from pipeline.streams.shards import WebDatasetInput
from tests.altering import one_byte_altered
from tests.finished_job import (
    FACTS,
    SALT,
    everything,
    evidence,
    finished_job,
    people,
    published,
    refuse_seal,
    released,
    settings_of,
)


class Broken(Exception):
    pass


def break_call(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """`os.NAME` fails when it is called for the `number`-th time."""
    true, calls = getattr(os, name), [0]

    def call(*given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise Broken
        return true(*given, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", ["replace", "fsync", "open", "mkdir", "unlink", "rmdir"])
def test_a_crash_anywhere_leaves_no_release_and_the_next_attempt_makes_it(tmp_path: Path, name: str) -> None:
    sources = people(6)
    whole = everything(released(tmp_path / "whole", [sources]))
    job = finished_job(tmp_path / "job", [sources])
    config, crashes = settings_of(tmp_path), 0
    publish(config, job, salt=SALT, evidence=evidence(sources), facts=FACTS)  # never sealed: the next has to tidy up
    for number in range(1, 40):
        with pytest.MonkeyPatch.context() as patch:
            break_call(patch, name, number)
            try:
                seal(Path(config.path), published(config, job, sources))
                break
            except Broken:
                crashes += 1
        if list(tmp_path.glob("release*/RELEASE.json")):  # the very last step: it is complete, or not there
            assert verify(tmp_path / "release") == []
        check_release(config, str(job), SALT)
    assert crashes >= 2
    assert everything(tmp_path / "release") == whole
    assert not (tmp_path / "release.part").exists()


@pytest.mark.parametrize(
    "step",
    [
        "publishing.check_faces", "publishing.write_shards", "publishing.closest", "publishing.check_near_copies",
        "publishing.check_taken", "publishing.take", "publishing.fresh", "documents.card", "documents.assessment_page",
        "documents.authenticated",
    ],
)  # fmt: skip
def test_a_step_that_fails_leaves_no_release(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise Broken

    monkeypatch.setattr(f"pipeline.release.{step}", fail)
    with pytest.raises(Broken):
        released(tmp_path, [people(6)])
    refuse_seal(tmp_path)


def test_what_changed_between_publishing_and_sealing_is_not_sealed(tmp_path: Path) -> None:
    job, config = finished_job(tmp_path / "job", [people(6)]), settings_of(tmp_path)
    manifest = published(config, job, people(6))
    with open(tmp_path / "release.part" / "data" / "release-00001.tar", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"data/release-00001\.tar was altered"):
        seal(Path(config.path), manifest)
    refuse_seal(tmp_path)


def test_a_sealed_release_is_left_as_it_is(tmp_path: Path) -> None:
    release = released(tmp_path, [people(6)])
    before = {p: p.stat().st_mtime_ns for p in release.rglob("*")}
    job, config = tmp_path / "job", settings_of(tmp_path)
    check_release(config, str(job), SALT)
    again = published(config, job, people(6))
    seal(release, again)
    assert text_of(again) == (release / "RELEASE.json").read_text()
    assert {p: p.stat().st_mtime_ns for p in release.rglob("*")} == before
    for salt, facts in ((b"another secret of the tests", FACTS), (SALT, {"operator": "other"})):
        with pytest.raises(UserError, match="a release of another job, or with another salt"):
            publish(config, job, salt=salt, evidence=evidence(people(6)), facts=facts)
    with pytest.raises(UserError, match="not empty"):
        check_release(config, str(tmp_path / "another-job"), SALT)
    (release / "README.md").write_text("better")
    with pytest.raises(UserError, match="no longer as it was sealed"):
        publish(config, job, salt=SALT, evidence=evidence(people(6)), facts=FACTS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    return released(folder, [people(6)])


def test_the_names_of_files_that_are_wrong(sound: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sound, tmp_path / "copy"))
    (copy / "data" / "release-00000.tar").unlink()
    (copy / "data" / "more.tar").write_bytes(b"")
    (copy / "README.md").unlink()
    (copy / "README.md").symlink_to(sound / "README.md")
    (copy / "RELEASE.json.part").write_text("")
    (copy / "empty").mkdir()
    assert verify(copy) == [
        "RELEASE.json.part is not listed",
        "data/more.tar is not listed",
        "empty is not listed",
        "README.md is not a regular file",
        "data/release-00000.tar is missing",
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_altered_byte_is_found_wherever_it_is(sound: Path, data: st.DataObject) -> None:
    file = sound / data.draw(
        st.sampled_from(["README.md", "RELEASE.json", *(f"data/release-0000{i}.tar" for i in (0, 1))])
    )
    with one_byte_altered(file, data):
        problems = verify(sound)
    assert problems
    assert file.name in problems[0]
    assert verify(sound) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not valid JSON"), ("\xff", "is not valid JSON"), ("[" * 100_000, "is not valid JSON"),
        ("[]", "found list"), ("null", "found NoneType"), ("{}", "an older version"),
        ('{"files": 7}', "an older version"),
        ('{"version": 3}', "another version of doppel, in schema 3"), ('{"version": 4}', "job: Field required"),
    ],
)  # fmt: skip
def test_a_manifest_of_nonsense(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "RELEASE.json").write_bytes(text.encode("latin-1"))
    (problem,) = verify(tmp_path)
    assert re.match(f"RELEASE.json.*{sentence}", problem)
    assert "\n" not in problem


def recomputed(release: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes RELEASE.json and computes its digest anew, as whoever reads the code can."""
    content = json.loads((release / "RELEASE.json").read_bytes())
    change(content)
    del content["version"]
    changed = ReleaseManifest.model_validate({**content, "digest": ""})
    (release / "RELEASE.json").write_text(text_of(changed))


def without_a_tar(content: dict[str, Any], release: Path) -> None:
    (release / "data" / "release-00001.tar").unlink()
    del content["files"]["data/release-00001.tar"]


def with_another_tar(content: dict[str, Any], release: Path) -> None:
    tar = release / "data" / "release-00000.tar"
    tar.write_bytes(bytes(10240))
    sha256 = hashlib.sha256(bytes(10240)).hexdigest()
    content["files"]["data/release-00000.tar"] |= {"sha256": sha256, "bytes": 10240}


CHANGES: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "facts": lambda content, release: content["facts"].update(gate="stricter"),
    "counts": lambda content, release: content["counts"].update(released=7),
    "verdicts": lambda content, release: content["counts"].update(released_by_verdict={"anonymous": 99}),
    "scans": lambda content, release: content["scans"]["near_copies"].update(closest_bits=30),
    "threat models": lambda content, release: content.update(threat_models={"T1": "safe", "T2": "safe"}),
    "code": lambda content, release: content.update(code="9.9"),
    "file list": without_a_tar,
    "a file": with_another_tar,
    "no hmac": lambda content, release: content.update(hmac=""),
    "another hmac": lambda content, release: content.update(hmac="0" * 64),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_and_computed_anew_is_known_by_the_salt(sound: Path, tmp_path: Path, change: str) -> None:
    copy = Path(shutil.copytree(sound, tmp_path / "copy"))
    assert verify(copy, SALT) == []
    recomputed(copy, lambda content: CHANGES[change](content, copy))
    assert verify(copy) == [], "nobody can tell without the salt"
    assert verify(copy, SALT) == [
        "RELEASE.json is not authentic: it was changed and computed anew, or belongs to another salt"
    ]
    task = Audit(originals=WebDatasetInput(urls=("x.tar",)), release=copy, out=tmp_path / "audit", salt=SALT)
    with pytest.raises(UserError, match=r"RELEASE\.json is not authentic"):
        check(task)
    check(replace(task, salt=None))
    assert authenticity(replace(task, salt=None)).startswith("not checked: no salt was given")
    job, config = sound.parent / "job", settings_of(tmp_path).model_copy(update={"path": str(copy)})
    with pytest.raises(UserError, match=r"RELEASE\.json is not authentic|of another job"):
        publish(config, job, salt=SALT, evidence=evidence(people(6)), facts=FACTS)


def test_the_seal_s_key_is_its_own(sound: Path) -> None:
    content = json.loads((sound / "RELEASE.json").read_bytes())
    stated = content.pop("hmac")
    del content["digest"], content["signature"]
    text, secret = json.dumps(content, sort_keys=True).encode(), derive(SALT)
    own = hashlib.blake2b(key=secret, digest_size=32, person=b"doppel seal").digest()
    assert hmac.new(own, text, "sha256").hexdigest() == stated
    for other in (SALT, secret, derive(SALT + b"2")):
        assert hmac.new(other, text, "sha256").hexdigest() != stated
    assert verify(sound, b"another secret of the tests") == [
        "RELEASE.json is not authentic: it was changed and computed anew, or belongs to another salt"
    ]
    assert SALT.hex() not in (sound / "RELEASE.json").read_text()


def test_a_manifest_that_lists_files_elsewhere(sound: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sound, tmp_path / "copy"))
    content = json.loads((copy / "RELEASE.json").read_text())
    content["files"]["../../etc/passwd"] = {"sha256": "0", "bytes": 1, "images": 1}
    (copy / "RELEASE.json").write_text(json.dumps(content))
    assert verify(copy)[-1] == "RELEASE.json lists 1 files that no release has"


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert "not a finished release" in verify(tmp_path / "nowhere")[0]
