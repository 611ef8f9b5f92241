"""Object stores: whole objects, exclusive puts, uploads in confirmed parts, and what a killed process leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pipeline.errors import UserError
from pipeline.section import place
from pipeline.streams import remote, s3_upload
from pipeline.streams.object_store import ObjectStore
from pipeline.streams.places import PARTS, open_store
from pipeline.streams.remote import Unreachable
from pipeline.streams.spool import make_spool
from pipeline.streams.store import Store
from tests import bucket


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)


@pytest.fixture
def in_s3(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket."""
    return bucket.opened(monkeypatch)


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "job" if request.param == "disk" else f"memory://{uuid4().hex}/job")


def part(store: Store, content: bytes) -> Path:
    store.parts.mkdir(parents=True, exist_ok=True)
    file = store.parts / uuid4().hex
    file.write_bytes(content)
    return file


def keeps_its_word(store: Store) -> None:
    """What `Store` promises, of a store without files."""
    assert store.exclusive() is None
    assert store.top() <= {PARTS}
    assert list(store.list("data")) == []
    assert store.read("job.json") is None
    assert store.fetch("data/a.tar") is None
    store.delete("job.json")
    store.put("job.json", b"1")
    store.put("job.json", b"22")
    assert store.read("job.json") == b"22"
    assert [store.put_if_absent("claims/a.json", content) for content in (b"me", b"you")] == [True, False]
    assert store.read("claims/a.json") == b"me"
    file = part(store, b"tar")
    stored = store.put_file(file, "data/deep/a.tar")
    assert stored.bytes == 3
    assert not file.exists()
    copy = store.fetch("data/deep/a.tar")
    assert copy is not None
    assert copy.read_bytes() == b"tar"
    (entry,) = store.list("data")
    assert (entry.path, entry.bytes) == ("data/deep/a.tar", 3)
    assert store.held(["data/deep/a.tar", "data/b", "data/deep/a"]) == {"data/deep/a.tar"}
    new = {"data/b": part(store, b"b"), "data/deep/a.tar": part(store, b"other")}
    assert store.put_new_files(new) == "data/deep/a.tar"
    assert store.read("data/b") is None
    assert store.put_new_files({"data/b": part(store, b"b"), "data/c": part(store, b"c")}) is None
    assert {entry.path for entry in store.list("data")} == {"data/b", "data/c", "data/deep/a.tar"}
    assert {"data", "claims", "job.json"} <= store.top()
    store.delete("data/deep/a.tar")
    store.clear("data")
    assert list(store.list("data")) == []
    store.sweep()
    assert store.read("job.json") == b"22"


def test_a_store_keeps_its_word(store: Store) -> None:
    keeps_its_word(store)


def test_a_bucket_keeps_its_word(in_s3: str) -> None:
    keeps_its_word(open_store(f"s3://{in_s3}/some/job"))
    names = bucket.names(in_s3)
    assert names == {"some/job/job.json", "some/job/claims/a.json"}  # nothing of the trial is left


def test_a_large_file_goes_in_parts_that_the_store_confirms(in_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)
    store, content = open_store(f"s3://{in_s3}/job"), os.urandom(11 << 20)
    monkeypatch.setattr("pipeline.streams.object_store.content_hash", None)  # nothing need be read again
    store.put_file(part(store, content), "data/a.tar")
    assert bucket.content(in_s3, "job/data/a.tar") == content
    (head,) = store.list("data")
    assert "-3" in head.mark  # three parts


def test_an_upload_that_fails_leaves_nothing(in_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)
    store = open_store(f"s3://{in_s3}/job")
    assert isinstance(store, ObjectStore)
    before = store._files.call_s3

    def failing(method: str, **given: Any) -> Any:
        if method == "complete_multipart_upload":
            raise ConnectionError("the network is down")
        return before(method, **given)

    monkeypatch.setattr(store._files, "call_s3", failing)
    file = part(store, bytes(6 << 20))
    with pytest.raises(Unreachable, match=r"data/a.tar|/job.* cannot be written after 5 tries: ConnectionError"):
        store.put_file(file, "data/a.tar")
    assert bucket.names(in_s3) == set()
    assert bucket.uploads(in_s3) == []


def test_what_arrives_otherwise_than_it_was_sent_is_no_file(in_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"s3://{in_s3}/job")
    monkeypatch.setattr(s3_upload, "_confirms", lambda answer, sha256, content: False)
    store.put_file(part(store, b"sound"), "data/a.tar")  # it is read again, and is as it was sent
    monkeypatch.setattr("pipeline.streams.object_store.content_hash", lambda url: "another")
    with pytest.raises(Unreachable, match=r"data/b\.tar was not stored as it was sent"):
        store.put_file(part(store, b"damaged"), "data/b.tar")
    assert bucket.names(in_s3) == {"job/data/a.tar"}


def test_a_client_that_is_killed_in_an_upload_leaves_no_object_and_no_parts(in_s3: str, tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from pipeline.streams import s3_upload
from pipeline.streams.places import PARTS, open_store
s3_upload.PART_BYTES = 5 << 20
s3_upload.S3Uploads._complete = lambda *given: os.kill(os.getpid(), 9)
store = open_store(sys.argv[1])
file = store.parts / "a.tar"
file.write_bytes(bytes(6 << 20))
store.put_file(file, "data/a.tar")
"""
    url, place = f"s3://{in_s3}/job", {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script, url], env={**os.environ, **place}, check=False)
    assert done.returncode == -9
    store = open_store(url)
    assert list(store.list("")) == []
    assert len(bucket.uploads(in_s3)) == 1
    assert list(tmp_path.glob("doppel-*/*/*/a.tar"))
    store.sweep()
    assert bucket.uploads(in_s3) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        make_spool(url)
    assert not list(tmp_path.glob("doppel-*/*/*/a.tar"))


def test_a_store_that_ignores_conditions_is_found_out(in_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"s3://{in_s3}/job")
    assert isinstance(store, ObjectStore)
    plain = store._files.pipe_file
    monkeypatch.setattr(store._files, "pipe_file", lambda path, content, mode="overwrite": plain(path, content))
    assert store.exclusive() == "it puts an object in the place of another that should stay"
    assert bucket.names(in_s3) == set()


def test_an_answer_that_was_lost_is_not_somebody_elses_file(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(f"memory://{uuid4().hex}")
    plain, lost = store._files.pipe_file, [True]

    def losing(path: str, content: bytes, mode: str = "overwrite") -> None:
        plain(path, content, mode=mode)
        if lost.pop() if lost else False:
            raise ConnectionResetError("gone")

    monkeypatch.setattr(store._files, "pipe_file", losing)
    assert store.put_if_absent("claims/a", b"mine")
    assert not store.put_if_absent("claims/a", b"yours")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("s3://", "a folder or a URL such as s3://bucket/folder"),
        ("s3://b/../c", "a folder or a URL"),
        ("s3:/b/c", "a folder or a URL"),
        ("s3://key:secret@b/c", "credentials in a URL are refused"),
        ("s3://b/c?x=1", "a query"),
        ("file:///tmp/x", "named by its path"),
    ],
)
def test_what_is_no_place_is_one_sentence(given: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        place(given)
    assert "secret" not in str(raised.value)


def test_a_place_without_bucket_protocol_or_permission_is_one_sentence(
    in_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="'ftb://b/job' cannot be opened: Protocol not known: ftb"):
        open_store("ftb://b/job")
    with pytest.raises(UserError, match="s3://nowhere-at-all/job cannot be written: there is no such bucket"):
        open_store("s3://nowhere-at-all/job").exclusive()
    store = open_store(f"s3://{in_s3}/job")
    assert isinstance(store, ObjectStore)

    def denied(*given: Any, **more: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(store._files, "pipe_file", denied)
    with pytest.raises(UserError, match=r"cannot be written: PermissionError: Access Denied; a job reads, writes"):
        store.put("job.json", b"{}")
