"""Releases in object stores: whole or none, whatever is lost on the way; and what may not lie in one another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline.cli import main
from pipeline.commands.release_places import keep_audit, places_of
from pipeline.errors import UserError
from pipeline.release import ReleaseConfig, check_release, verify
from pipeline.release.finished_job import Made
from pipeline.release.sealing import MARK
from pipeline.release.uploading import download, upload
from pipeline.streams.object_store import ObjectStore
from pipeline.streams.places import open_store
from pipeline.streams.remote import Unreachable
from pipeline.streams.store import Store
from tests import bucket
from tests.builders import tree
from tests.finished_job import SALT, finished_job, people, released, settings_of


@pytest.fixture
def place() -> str:
    return f"memory://{uuid4().hex}/release"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release; read only."""
    return released(tmp_path_factory.mktemp("sealed"), [people(6)])


@pytest.fixture
def release(sealed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sealed, tmp_path / "release")


def content(store: Store) -> Mapping[str, bytes | None]:
    return {entry.path: store.read(entry.path) for entry in store.list("")}


def fill(store: Store, folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            store.put(file.relative_to(folder).as_posix(), file.read_bytes())


def test_what_is_uploaded_is_the_release(sealed: Path, release: Path, place: str) -> None:
    upload(release, open_store(place))
    assert content(open_store(place)) == tree(sealed, ".")
    download(open_store(place), release.with_name("again"))
    assert verify(release.with_name("again"), SALT) == []


def test_a_bucket_holds_a_release(
    sealed: Path, release: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in bucket.environment(bucket.server()).items():
        monkeypatch.setenv(name, value)
    place, salt = f"s3://{bucket.new_bucket(bucket.server())}/public/release", tmp_path / "salt"
    salt.write_bytes(SALT)
    salt.chmod(0o600)
    check_release(ReleaseConfig(path=place, audit=str(tmp_path / "audit")), str(tmp_path / "job"), SALT, str(salt))
    upload(release, open_store(place))
    assert content(open_store(place)) == tree(sealed, ".")
    assert main(["verify", place, "--salt-file", str(salt)]) == 0
    assert capsys.readouterr().out.startswith(f"{place}: sound")
    inside = ReleaseConfig(path=place, audit=place.replace("s3://", "s3a://") + "/audit")
    with pytest.raises(UserError, match=r"release\.path: s3://.* and release\.audit, s3a://.*, lie in each other"):
        check_release(inside, str(tmp_path / "job"), SALT)


@pytest.mark.parametrize("after", [False, True], ids=["before it is put", "after it was put"])
def test_a_crash_between_two_files_leaves_no_release(sealed: Path, tmp_path: Path, place: str, after: bool) -> None:
    store, true, crashes = open_store(place), ObjectStore.put_file, 0
    config = ReleaseConfig(path=place, audit=str(tmp_path / "audit"))
    for number in range(len(tree(sealed, "."))):
        copy, calls = shutil.copytree(sealed, tmp_path / str(number)), [0]

        def put_file(self: ObjectStore, part: Path, path: str, calls: list[int] = calls, number: int = number) -> Any:
            calls[0] += 1
            broken = calls[0] == number + 1
            stored = None if broken and not after else true(self, part, path)
            if broken:
                raise Unreachable("lost")
            return stored

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ObjectStore, "put_file", put_file)
            with pytest.raises(Unreachable):
                upload(copy, store)
        crashes += 1
        last = number + 1 == len(tree(sealed, "."))
        assert ("RELEASE.json" in content(store)) == (last and after)
        if not (last and after):
            check_release(config, str(tmp_path / "job"), SALT)  # the next run may begin
    assert crashes > 3
    if not after:  # else it is sealed
        store.put("data/of-an-earlier-attempt.tar", b"")
    upload(shutil.copytree(sealed, tmp_path / "next"), store)
    assert content(store) == tree(sealed, ".")


def test_a_sealed_one_stays_as_it_is(release: Path, place: str, tmp_path: Path) -> None:
    upload(shutil.copytree(release, tmp_path / "first"), open_store(place))
    open_store(place).put(MARK, b"")  # a crash came before it went
    before = {entry.path: entry.mark for entry in open_store(place).list("data")}
    upload(release, open_store(place))
    assert {entry.path: entry.mark for entry in open_store(place).list("data")} == before
    assert MARK not in content(open_store(place))
    other = released(tmp_path / "other", [people(5)])
    with pytest.raises(UserError, match=rf"release\.path: {place} holds another release"):
        upload(other, open_store(place))
    assert {entry.path: entry.mark for entry in open_store(place).list("data")} == before


def test_what_is_somebody_s_is_left_alone(release: Path, place: str, tmp_path: Path) -> None:
    open_store(place).put("thesis.tex", b"years of work")
    config = ReleaseConfig(path=place, audit=str(tmp_path / "audit"))
    with pytest.raises(UserError, match=rf"release\.path: {place} is not empty; name a folder"):
        check_release(config, str(tmp_path / "job"), SALT)
    with pytest.raises(UserError, match=rf"release\.path: {place} is not empty; name a folder"):
        upload(release, open_store(place))
    assert content(open_store(place)) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("path", "output", "audit", "named"),
    [
        ("memory://b/r", "o", "memory://b/a", None),
        ("memory://b/r", "memory://b/o", "memory://b/ra", None),
        ("memory://b/r", "memory://b/r/o", "a", "output.path, memory://b/r/o"),
        ("memory://b/o/r", "memory://b/o", "a", "output.path, memory://b/o"),
        ("memory://b", "o", "memory://b/a", "release.audit, memory://b/a"),
        ("memory://b/r", "o", "MEMORY://b/r/", "release.audit, memory://b/r"),
        ("nowhere://b/r", "o", "a", None),
    ],
)
def test_private_places_lie_outside(tmp_path: Path, path: str, output: str, audit: str, named: str | None) -> None:
    def at(name: str) -> str:
        return name if "://" in name else str(tmp_path / name)

    config = ReleaseConfig(path=path, audit=at(audit))
    if path.startswith("nowhere"):
        with pytest.raises(UserError, match="'nowhere://b/r' cannot be opened"):
            check_release(config, at(output), SALT)
    elif named is None:
        check_release(config, at(output), SALT)
    else:
        with pytest.raises(UserError, match=rf"release\.path: {path} and {named}, lie in each other"):
            check_release(config, at(output), SALT)


def test_a_job_in_a_store_is_read_as_one_on_a_disk(tmp_path: Path, place: str) -> None:
    job = finished_job(tmp_path / "job", [people(2)])
    store = open_store(place)
    fill(store, job)
    store.put("faces/secret.safetensors", b"")
    config = settings_of(tmp_path, audit=f"{place}-audit")
    with places_of(config, place) as places:
        assert list(Made.by(places.job).tars.values()) == list(Made.by(job).tars.values())
        assert not (places.job / "faces").exists()
        assert places.release == (tmp_path / "release").resolve()
        (places.audit / "faces").mkdir(parents=True)
        (places.audit / "faces" / "a.safetensors").write_bytes(b"faces")
        (places.audit / "report.html").write_bytes(b"report")
        keep_audit(places, config)
    assert not places.job.exists()
    assert not places.audit.exists()
    audit = open_store(config.audit)
    assert content(audit) == {"faces/a.safetensors": b"faces", "report.html": b"report"}
    store.put("data/secret-shard-0.tar", b"altered")
    with places_of(config, place) as places:
        assert tree(places.audit, ".") == {"faces/a.safetensors": b"faces"}
    altered = rf"^{place}/data/secret-shard-0\.tar is missing, or not as the job wrote"
    with pytest.raises(UserError, match=altered), places_of(config, place) as places:
        Made.by(places.job)
