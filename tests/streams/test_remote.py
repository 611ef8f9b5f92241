"""Networks that break: tried again where that helps, one sentence where it does not, and never taken for damage."""

from __future__ import annotations

import errno
import hashlib
import io
import pickle
import random
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import FAILED, main
from pipeline.errors import UserError
from pipeline.media.records import Sample
from pipeline.streams import remote
from pipeline.streams.captions import CaptionsInput
from pipeline.streams.files import content_hash, expand_urls, fingerprint, is_damage, open_url
from pipeline.streams.hub import HubInput
from pipeline.streams.remote import TRIES, Gone, RemoteFile, Unreachable, mark_of, passing, persistently, shown
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from tests.streams.made import picture, tar_bytes
from tests.streams.unsteady import Served, unsteady_server

SET = tar_bytes([(f"{i:03d}.{e}", c) for i in range(40) for e, c in (("png", picture(i)), ("cls", b"1"))])
LARGE = random.Random(0).randbytes(12 << 20)
"""More than the file system fetches at once."""


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    return waits


@pytest.fixture
def files() -> dict[str, Served]:
    return {"/s.tar": Served(SET), "/large": Served(LARGE), "/whole": Served(LARGE, ranges=False)}


@pytest.fixture
def server(files: dict[str, Served]) -> Iterator[str]:
    with unsteady_server(files) as url:
        yield url


@pytest.mark.parametrize(
    "failures", [[500, 503, 502], ["drop"], ["cut"], [429, "cut", "drop", 408], [500] * (TRIES - 1)]
)
def test_what_passes_is_tried_again(
    failures: list[int | str], files: dict[str, Served], server: str, slept: list[float]
) -> None:
    files["/s.tar"].failures = list(failures)
    shard = WebDatasetInput(urls=(f"{server}/s.tar",)).open().shards[0]
    items = list(shard.read())
    assert [item.key for item in items] == [f"{i:03d}" for i in range(40)]
    assert all(isinstance(item, Sample) for item in items)
    assert shard.content_hash() == hashlib.sha256(SET).hexdigest()
    assert slept == [2.0**i for i in range(len(slept))]
    assert len(slept) >= len(failures) - failures.count("drop")  # aiohttp itself asks again where a connection was old
    assert not files["/s.tar"].failures


def test_the_size_is_asked_for_again_too(files: dict[str, Served], server: str, slept: list[float]) -> None:
    files["/s.tar"].head_failures, files["/s.tar"].failures = [500, "drop"], [503, 503]
    assert content_hash(f"{server}/s.tar") == hashlib.sha256(SET).hexdigest()
    assert len(slept) >= 2


@pytest.mark.parametrize("name", ["large", "whole"])
@pytest.mark.parametrize("failure", ["cut", "drop", 500])
def test_reading_goes_on_where_it_broke(
    name: str, failure: int | str, files: dict[str, Served], server: str, slept: list[float]
) -> None:
    served = files[f"/{name}"]
    with open_url(f"{server}/{name}") as file:
        first = file.read(6 << 20)
        served.failures = [failure]
        file.seek(len(first))
        assert first + file.read() == LARGE
        assert file.read() == b""
        for place in (0, 5 << 20, 7, len(LARGE) - 3, 6 << 20):
            file.seek(place)
            assert file.read(9) == LARGE[place : place + 9]
            assert file.tell() == min(place + 9, len(LARGE))
        file.seek(-5, io.SEEK_END)
        assert file.read() == LARGE[-5:]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_what_does_not_pass_is_said_at_once(
    status: int, files: dict[str, Served], server: str, slept: list[float]
) -> None:
    files["/s.tar"].failures = [status] * 99
    files["/s.tar"].head_failures = [status] * 99
    with pytest.raises(Unreachable, match=rf"^{server}/s\.tar cannot be read: HTTP status {status} \(") as caught:
        open_url(f"{server}/s.tar?X-Amz-Signature=secret")
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, Gone) == (status == 404)
    assert not slept


@pytest.mark.parametrize("failure", [500, 503, 429, "drop", "cut"])
@pytest.mark.parametrize("options", [{}, {"ranges": False}])
def test_what_stays_broken_is_unreachable_and_no_damage(
    failure: int | str, options: dict[str, Any], files: dict[str, Served], server: str, slept: list[float]
) -> None:
    files["/s.tar"] = Served(SET, failures=[failure] * 99, **options)
    shard = WebDatasetInput(urls=(f"{server}/s.tar",)).open().shards[0]
    with pytest.raises(Unreachable, match=rf"s\.tar cannot be read after {TRIES} tries: ") as caught:
        list(shard.read())
    assert not is_damage(caught.value)
    assert not is_damage(caught.value, local=False)
    assert slept == [1.0, 2.0, 4.0, 8.0]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_nobody_listens(slept: list[float]) -> None:
    with unsteady_server({}) as url:
        pass
    with pytest.raises(Unreachable, match=f"after {TRIES} tries"):
        open_url(f"{url}/s.tar")


@pytest.mark.parametrize(("failure", "devices"), [(403, 1), (404, 1), (500, 1), ("drop", 1), ("cut", 1), (403, 2)])
def test_a_job_ends_in_one_sentence_and_goes_on(
    failure: int | str, devices: int, files: dict[str, Served], server: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    files["/t.tar"] = Served(builders.shard(tmp_path / "t.tar", 3).read_bytes())
    content = builders.recipe("", tmp_path / "out", None, **{
        "input.urls": [f"{server}/t.tar", f"{server}/s.tar"], "run.devices": ["cpu"] * devices,
    })  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    files["/s.tar"].failures = [failure] * 99
    assert main(["run", str(recipe)]) == FAILED
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("doppel: ")]
    assert f"{server}/s.tar cannot be read" in line
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "quarantine" / "s.tar").exists()
    files["/s.tar"].failures = []
    assert main(["run", str(recipe)]) == 0
    assert "43 images from 43 samples" in capsys.readouterr().out


def test_a_file_that_changes_while_it_is_read(files: dict[str, Served], server: str) -> None:
    served = files["/large"]
    served.headers = {"ETag": '"1"'}
    with open_url(f"{server}/large") as file:
        file.read(6 << 20)
        served.failures, served.headers = ["cut"], {"ETag": '"2"'}
        file.seek(11 << 20)
        with pytest.raises(Unreachable, match="has changed while it was read"):
            file.read()


@pytest.mark.parametrize("headers", [{"ETag": '"{}"'}, {"Last-Modified": "Mon, 0{} Jan 2024 00:00:00 GMT"}, {}])
def test_a_fingerprint_changes_with_the_content(headers: dict[str, str], files: dict[str, Served], server: str) -> None:
    served, url = files["/s.tar"], f"{server}/s.tar"

    def now(number: int, content: bytes) -> str:
        served.headers = {name: value.format(number) for name, value in headers.items()}
        served.content = content
        served.asked.clear()
        return fingerprint(url)

    first = now(1, SET)
    assert now(1, SET) == first
    assert bool([one for one in served.asked if one.startswith("GET")]) == (not headers), "only then it is read"
    other = bytearray(SET)
    other[-1] ^= 1  # of the same size
    assert now(2, bytes(other)) != first
    assert now(1, SET) == first


def test_marks_are_what_changes() -> None:
    assert mark_of({"name": "a", "size": 3, "type": "file", "url": "b", "mimetype": "c"}) is None
    assert mark_of({"size": 3, "ETag": None, "Last-Modified": ""}) is None
    for name in (
        "ETag",
        "etag",
        "e_tag",
        "LastModified",
        "last_modified",
        "mtime",
        "md5Hash",
        "Content-MD5",
        "blob_id",
    ):
        assert mark_of({"size": 3, name: "1"}) != mark_of({"size": 3, name: "2"})
        assert mark_of({"size": 3, name: "1"}) != mark_of({"size": 4, name: "1"})


def test_captions_and_other_file_systems(files: dict[str, Served], server: str) -> None:
    lines = b'{"id": "a", "caption": "one"}\n{"id": "b", "caption": "two"}\n'
    files["/c.jsonl"] = Served(lines, failures=["cut", 500])
    (shard,) = CaptionsInput(urls=(f"{server}/c.jsonl",)).open().shards
    assert [item.key for item in shard.read()] == ["a", "b"]
    fsspec.filesystem("memory").pipe("/m/s.tar", SET)
    (shard,) = WebDatasetInput(urls=("memory://m/*.tar",)).open().shards
    assert len(list(shard.read())) == 40
    with pytest.raises(Gone, match="memory://m/none cannot be read: it is not there"):
        open_url("memory://m/none")


def test_parquet_by_url(parquet: Path, files: dict[str, Served], server: str) -> None:
    files["/p.parquet"] = served = Served((parquet / "part-0.parquet").read_bytes())
    (shard,) = HubInput(path=f"{server}/p.parquet").open().shards
    served.failures = [503, "cut", 500]
    assert [type(item) for item in shard.read()] == [Sample] * 5
    for failure, said in (
        (403, "HTTP status 403"),
        (404, "HTTP status 404"),
        (500, "after 5 tries"),
        ("cut", "after 5"),
    ):
        served.failures = [failure] * 99
        with pytest.raises(Unreachable, match=rf"p\.parquet cannot be read.*{said}"):
            list(shard.read())
        with pytest.raises(Unreachable, match=rf"p\.parquet cannot be read.*{said}"):
            HubInput(path=f"{server}/p.parquet").open()


class Flaky:
    """A file system whose listing and reading fail in turn."""

    def __init__(self, errors: list[Exception], content: bytes = b"abc", size: int | None = 3) -> None:
        self.errors, self.content, self.size = errors, content, size

    def fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def info(self, path: str) -> dict[str, Any]:
        self.fail()
        return {"size": self.size, "etag": "1"}

    def glob(self, path: str) -> list[str]:
        self.fail()
        return ["x/b.tar", "x/a.tar"]

    def open(self, path: str, mode: str, **options: Any) -> io.BytesIO:
        self.fail()
        return io.BytesIO(self.content)

    def unstrip_protocol(self, path: str) -> str:
        return f"flaky://{path}"


PASSING = [
    ConnectionResetError(), TimeoutError(), OSError("connection lost"), OSError(errno.EIO, "i/o"), ssl.SSLError("bad"),
    ConnectionRefusedError(), BrokenPipeError(),
]  # fmt: skip
LASTING = [FileNotFoundError("x"), PermissionError("x"), ValueError("no"), TypeError("no"), KeyError("x"), EOFError()]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_errors_that_pass(error: Exception, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert passing(error)
    assert io.BufferedReader(RemoteFile("x://y", Flaky([error, error]), "y")).read() == b"abc"
    assert slept == [1.0, 2.0]
    monkeypatch.setattr("pipeline.streams.files.file_system_at", lambda url: (Flaky([error]), "x/*.tar"))
    assert expand_urls(["flaky://x/*.tar"]) == ["flaky://x/a.tar", "flaky://x/b.tar"]


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_errors_that_last(error: Exception, slept: list[float]) -> None:
    assert not passing(error)
    with pytest.raises(Unreachable) as caught:
        RemoteFile("x://user:pass@y/z?sign=1", Flaky([error]), "y")
    assert str(caught.value).startswith("x://y/z cannot be read: ")
    assert not is_damage(caught.value)
    assert not slept


def test_a_body_that_is_shorter_than_announced_is_cut(slept: list[float]) -> None:
    with pytest.raises(Unreachable, match="2 of 3 bytes came"):
        io.BufferedReader(RemoteFile("x://y", Flaky([], content=b"ab"), "y")).read()
    assert io.BufferedReader(RemoteFile("x://y", Flaky([], content=b"ab", size=None), "y")).read() == b"ab"


def test_urls_are_shown_without_what_is_secret() -> None:
    assert shown("https://me:word@host:81/a/b.tar?sig=x#y") == "https://host:81/a/b.tar"
    assert shown("s3://bucket/a b.tar") == "s3://bucket/a b.tar"


@given(st.lists(st.sampled_from([*PASSING, None]), max_size=8), st.binary(max_size=40), st.integers(1, 9))
def test_whatever_passes_the_bytes_are_those(errors: list[Exception | None], content: bytes, size: int) -> None:
    class Between(io.BytesIO):
        def read(self, wanted: int | None = -1) -> bytes:
            if errors and (error := errors.pop()) is not None:
                raise error
            return super().read(wanted)

    system = Flaky([], size=len(content))
    system.open = lambda path, mode, **options: Between(content)  # type: ignore[method-assign]
    file, found = RemoteFile("x://y", system, "y"), b""
    if max(map(len, "".join("x" if e else " " for e in errors).split()), default=0) >= TRIES:
        return
    while data := file.read(size):
        found += data
    assert found == content


def test_the_last_error_is_told() -> None:
    errors: list[Exception] = [ConnectionResetError(), OSError(errno.ENOSPC, "No space left on device")]

    def work() -> None:
        raise errors[0] if len(errors) == 1 else errors.pop(0)

    with pytest.raises(Unreachable, match=f"after {TRIES} tries: OSError: No space left on device"):
        persistently("x://y", work)


@pytest.mark.parametrize("url", ["http://[::1", "nothing://x/a.tar", "http://[x]/a.tar"])
def test_what_is_no_url_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(repr(url))} cannot be opened: "):
        open_url(url)


def test_a_server_that_takes_no_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    with pytest.raises(Unreachable, match=r"ftp://127\.0\.0\.1/x\.tar cannot be read after 5 tries: .*refused"):
        open_url("ftp://127.0.0.1/x.tar")


@pytest.mark.parametrize("failure", [403, 404])
def test_a_query_is_no_glob_and_no_secret_is_shown_or_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failure: int
) -> None:
    served = Served(tar_bytes([("a.png", picture(1))]))
    with unsteady_server({"/a.tar": served}) as base:
        url = f"{base}/a.tar?token=SECRET".replace("http://", "http://user:SECRET@")
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(builders.recipe(url, tmp_path / "out", None)))
        assert main(["run", str(recipe)]) == 0
        assert main(["run", str(recipe), "--set", f"input.urls={url.replace('SECRET', 'NEXT')}"]) == 0
        served.failures = served.head_failures = [failure] * 9
        assert main(["run", str(recipe), "--overwrite"]) == FAILED
    said = capsys.readouterr().err
    assert f"/a.tar cannot be read: HTTP status {failure}" in said
    assert "SECRET" not in said
    kept = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"SECRET" not in kept
    assert b"NEXT" not in kept
