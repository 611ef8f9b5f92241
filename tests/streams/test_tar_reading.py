"""What comes out of tars that are whole, cut off, damaged or hostile."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.media.records import Rejected, Sample
from pipeline.streams.names import split_name
from pipeline.streams.shards import WebDatasetInput
from tests.streams.damaged import NAMES, read, shard
from tests.streams.made import SHARED_DATA, picture, rejected, samples, tar_bytes


def test_a_whole_tar_gives_every_sample_with_all_its_members(tmp_path: Path, whole: bytes) -> None:
    read = samples(shard(tmp_path / "t.tar", whole))
    assert [(s.key, s.label, s.image_ext) for s in read] == [(k, i, "png") for i, k in enumerate(NAMES)]
    assert [s.image for s in read] == [picture(i) for i in range(4)]
    assert read[2].members == {"cls": b"2", "bin": bytes(700)}


def test_an_empty_tar_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path, bytes(10240)) == []


@pytest.mark.parametrize("name", ["/etc/passwd.png", "../x.png", "a/../../x.png", "C:\\x.png", "a\nb.png"])
def test_unsafe_names_are_rejected_and_their_neighbours_are_not(tmp_path: Path, name: str) -> None:
    items = read(tmp_path, tar_bytes([("a.png", picture(1)), (name, picture(2)), ("b.png", picture(3))]))
    assert [item.key for item in items if isinstance(item, Sample)] == ["a", "b"]
    assert "unsafe" in rejected(items)[0].reason


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files_are_rejected_with_their_sample(tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("a.png", "b.png"):
            image = tarfile.TarInfo(name)
            image.size = len(picture(1))
            tar.addfile(image, io.BytesIO(picture(1)))
        special = tarfile.TarInfo("b.txt")
        special.type, special.linkname = kind, "/etc/passwd"
        tar.addfile(special)
    items = read(tmp_path, buffer.getvalue())
    assert [item.key for item in items if isinstance(item, Sample)] == ["a"]
    assert "not a regular file" in rejected(items)[0].reason


def test_directories_are_passed_over(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        image = tarfile.TarInfo("d/a.png")
        image.size = len(picture(1))
        tar.addfile(image, io.BytesIO(picture(1)))
    assert [s.key for s in samples(shard(tmp_path / "t.tar", buffer.getvalue()))] == ["d/a"]


def test_the_second_of_two_equal_keys_is_refused(tmp_path: Path) -> None:
    items = read(tmp_path, tar_bytes([("a.png", b"1"), ("b.png", b"2"), ("a.png", b"3"), ("a.png", b"4")]))
    assert [item.image for item in items if isinstance(item, Sample)] == [b"1", b"2"]
    assert [(bad.kind, bad.members["png"]) for bad in rejected(items)] == [("refused", b"3"), ("refused", b"4")]


def test_a_sample_needs_exactly_one_image(tmp_path: Path) -> None:
    content = tar_bytes([("a.txt", b"x"), ("b.png", b"1"), ("b.jpg", b"2"), ("c.png", b"1"), ("c.seg.png", b"")])
    items = read(tmp_path, content)
    assert [(type(item), item.key) for item in items] == [(Rejected, "a"), (Rejected, "b"), (Sample, "c")]
    assert rejected(items)[1].members == {"png": b"1", "jpg": b"2"}
    named = read(tmp_path, content, image="jpg")
    assert [(type(item), item.key) for item in named] == [(Rejected, "a"), (Sample, "b"), (Rejected, "c")]


@pytest.mark.parametrize(
    ("rule", "name", "key", "extension"),
    [
        ("auto", "d/IMG.2020.01.jpg", "d/IMG.2020.01", "jpg"),
        ("auto", "7.seg.png", "7", "seg.png"),
        ("first", "d.1/IMG.2020.01.jpg", "d.1/IMG", "2020.01.jpg"),
        ("last", "7.seg.png", "7.seg", "png"),
        ("last", "d.1/noext", "d.1/noext", ""),
        ("auto", "a.b", "a", "b"),
    ],
)
def test_where_a_key_ends(rule: str, name: str, key: str, extension: str) -> None:
    assert split_name(name, rule) == (key, extension)  # type: ignore[arg-type]


def test_dots_in_keys_follow_the_rule_of_the_input(tmp_path: Path) -> None:
    content = tar_bytes([("IMG.2020.png", b"1"), ("IMG.2021.png", b"2")])
    assert [item.key for item in read(tmp_path, content)] == ["IMG.2020", "IMG.2021"]
    assert [item.key for item in read(tmp_path, content, split="first", image="2020.png")] == ["IMG"]


@pytest.mark.parametrize(
    ("where", "member", "label"),
    [
        ("cls", ("cls", b"3"), 3),
        ("cls", ("cls", b" 007\n"), 7),
        ("cls", ("cls", b"cat"), None),
        ("cls", ("cls", b"9" * 30), None),
        ("cls", ("txt", b"3"), None),
        ("json:label", ("json", b'{"label": 5}'), 5),
        ("json:label", ("json", b'{"label": true}'), None),
        ("json:label", ("json", b'{"label": "5"}'), 5),
        ("json:label", ("json", b"[1]"), None),
        ("json:label", ("json", b"[" * 100_000), None),
        ("json:label", ("json", b"\xff"), None),
    ],
)
def test_labels(tmp_path: Path, where: str, member: tuple[str, bytes], label: int | None) -> None:
    content = tar_bytes([("a.png", b"1"), (f"a.{member[0]}", member[1])])
    (sample,) = samples(shard(tmp_path / "t.tar", content, label=where))
    assert sample.label == label
    assert sample.members == dict([member])


def test_a_real_tar_reads_whole() -> None:
    real = SHARED_DATA / "lfw" / "dev-00000.tar"
    if not real.exists():
        pytest.skip(f"{real} is not here")
    (only,) = WebDatasetInput(urls=(str(real),)).open().shards
    with tarfile.open(real) as tar:
        contents = {i.name: tar.extractfile(i).read() for i in tar}  # type: ignore[union-attr]
    read = samples(only)
    assert {f"{s.key}.jpg": s.image for s in read} | {f"{s.key}.json": s.members["json"] for s in read} == contents


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_the_content_hash_is_that_of_the_file_read_or_not(
    tmp_path: Path, whole: bytes, squeeze: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = squeeze(whole)
    truth = hashlib.sha256(data).hexdigest()
    source = shard(tmp_path / "t.tar", data)
    next(source.read())  # begun and left: not enough to know
    assert source.content_hash() == truth
    assert len(list(source.read())) == 4
    monkeypatch.setattr("pipeline.streams.shards.content_hash", lambda url: "read a second time")
    assert source.content_hash() == truth
