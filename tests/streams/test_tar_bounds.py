"""Tars that promise or hold too much: refused within the bounds of `input.bounds`, in memory and in bytes read."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import pytest

from pipeline.media.records import Sample
from tests.streams.damaged import read, told
from tests.streams.made import rejected, tar_bytes


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def record(keyword: bytes, value: bytes) -> bytes:
    """One record of a pax header, which begins with its own length."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(str(length)) + len(rest):
        length = len(str(length)) + len(rest)
    return b"%d" % length + rest


def extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("x", len(content), kind) + padded(content)


END = bytes(1024)
AFTER = tar_bytes([("y.png", b"1"), ("z.png", b"2")])


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_a_size_beyond_the_file_ends_at_once(tmp_path: Path, kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terabyte in a file of 2 KiB."""

    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            Counted.reads += 1
            return super().read(size)

    def counted(url: str) -> IO[bytes]:
        return Counted(tar_bytes([("a.png", b"1")])[:1024] + header("b.png", 1 << 40, kind) + bytes(512))

    monkeypatch.setattr("pipeline.streams.shards.open_url", counted)
    keys = told(read(tmp_path, b""))
    assert keys == (["a?", "#"] if kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME) else ["a", "b?", "#"])
    assert Counted.reads < 10


def test_a_member_that_is_too_large_is_rejected_unread_and_its_sample_kept_short(tmp_path: Path) -> None:
    content = tar_bytes([("a.txt", b"x"), ("a.png", bytes(101)), ("a.cls", b"1"), ("b.png", bytes(100))])
    items = read(tmp_path, content, bounds={"member_bytes": 100})
    assert told(items) == ["a?", "b"]
    (bad,) = rejected(items)
    assert "'a.png' has 101 bytes; allowed are 100 (input.bounds.member_bytes)" in bad.reason
    assert bad.members == {}


def test_a_sample_that_is_too_large_is_one_row_and_its_neighbours_are_read(tmp_path: Path) -> None:
    many = [(f"b.{i}.png", bytes(90)) for i in range(10)]
    content = tar_bytes([("a.png", bytes(90)), *many, *many, ("c.png", bytes(90))])
    for bounds, why in (({"sample_bytes": 400}, "sample_bytes"), ({"sample_members": 9}, "sample_members")):
        items = read(tmp_path, content, bounds=bounds, split="first")
        assert told(items) == ["a", "b?", "c"]
        (bad,) = rejected(items)
        assert f"(input.bounds.{why})" in bad.reason
        assert bad.members == {}
    exact = read(tmp_path, tar_bytes([("a.png", bytes(100)), ("a.txt", b"x" * 94)]), bounds={"sample_bytes": 200})
    assert told(exact) == ["a"]


def test_names_count_as_bytes_of_the_sample(tmp_path: Path) -> None:
    content = tar_bytes([("a.png", b""), *((f"a.{'x' * 500}{i}", b"") for i in range(9)), ("c.png", b"")])
    assert told(read(tmp_path, content, bounds={"sample_bytes": 2000})) == ["a?", "c"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_extended_header_that_is_too_large_costs_its_member_alone(tmp_path: Path, kind: bytes) -> None:
    """The header is whole, so that its size leads on; the name of its member is unknown."""
    long = header("x", 5000, kind) + padded(b"x" * 5000)
    content = tar_bytes([("a.png", b"1")])[:1024] + long + header("b.png", 0) + header("c.png", 0) + AFTER
    items = read(tmp_path, content, bounds={"header_bytes": 5000})
    assert told(items) == ["a?", "#", "c?", "y", "z"]
    assert "input.bounds.header_bytes: 5000" in rejected(items)[1].reason


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_many_extended_headers_in_a_row_are_bounded_and_no_recursion(tmp_path: Path, kind: bytes) -> None:
    row = extended(record(b"comment", b"x"), kind) * 5000
    content = row + header("b.png", 0) + header("c.png", 0) + header("d.png", 0) + AFTER
    assert told(read(tmp_path, content)) == ["#", "c?", "d", "y", "z"]
    assert told(read(tmp_path, content, bounds={"header_bytes": 1 << 24})) == ["b", "c", "d", "y", "z"]


def test_the_last_of_several_extended_headers_counts(tmp_path: Path) -> None:
    row = extended(record(b"path", b"one.png"), tarfile.XGLTYPE) + extended(record(b"path", b"two.png"))
    content = row + header("b.png", 3) + padded(b"abc") + header("c.png", 0) + END
    assert told(read(tmp_path, content)) == ["two", "one"]


def test_what_extended_headers_tell_ends_with_the_archive(tmp_path: Path) -> None:
    one = extended(record(b"path", b"one.png"), tarfile.XGLTYPE) + header("a.png", 0) + bytes(16 * 512)
    assert len(one) == 10240 - 512
    assert told(read(tmp_path, one + bytes(512) + header("b.png", 0) + END)) == ["one", "b"]
    for behind in (b"", AFTER):
        items = read(tmp_path, header("a.png", 0) + extended(record(b"path", b"one.png")) + bytes(17 * 512) + behind)
        assert told(items) == ["a?", "#", *"yz"[: len(behind)]]
        assert "is missing" in rejected(items)[1].reason


@pytest.mark.parametrize(
    "content",
    [
        b"0 path=a.png\n",
        b"99999999999999999999999999 path=a.png\n",
        b"-5 path=a.png\n",
        b"14 path=a.pngX",
        b"12 patha.png\n",
        b"path=a.png\n",
        record(b"size", b"-1"),
        record(b"size", b"1e3"),
        record(b"size", b"9" * 5000),
    ],
)
def test_a_malformed_pax_header_is_damage(tmp_path: Path, content: bytes) -> None:
    items = read(tmp_path, extended(content) + header("b.png", 0) + header("c.png", 0) + AFTER)
    assert told(items) == ["#", "c?", "y", "z"]
    assert "is damaged" in rejected(items)[0].reason


PEAK = 120
"""MiB that reading may add to what the imports take, at most; most of it is what Python and zlib keep for pieces."""


def grown(path: Path, bounds: str = "{}") -> tuple[int, list[str]]:
    """MiB by which a process grows that reads a shard and lets each item go, and the kinds of the items."""
    script = f"""
        import resource, sys
        from pipeline.media.records import Rejected
        from pipeline.streams.shards import TarShard, WebDatasetInput

        shard = TarShard({str(path)!r}, "t", WebDatasetInput(urls={str(path)!r}, bounds={bounds}))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for item in shard.read():
            print(item.kind if isinstance(item, Rejected) else "sample", sum(map(len, item.members.values())))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=120
    )
    *items, peak = done.stdout.splitlines()
    return int(peak) >> 10, items


def packed(path: Path, pieces: Iterable[bytes]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    return path


MIB = bytes(1 << 20)


def test_memory_for_a_pax_header_of_300_mib(tmp_path: Path) -> None:
    """It took 15 times its size."""
    size = 300 << 20
    content = [header("x", size, tarfile.XHDTYPE), *[MIB] * 300, header("b.png", 0), header("c.png", 0), AFTER]
    peak, items = grown(packed(tmp_path / "t.tgz", content))
    assert [item.split()[0] for item in items] == ["damaged", "undecodable", "sample", "sample"]
    assert peak < PEAK


def test_memory_for_a_sample_of_ten_members_of_60_mib(tmp_path: Path) -> None:
    """It is held up to the bound, and then let go."""
    content = [part for i in range(10) for part in (header(f"a.m{i}.png", 60 << 20), *[MIB] * 60)]
    bounds = f"dict(sample_bytes={100 << 20})"
    peak, items = grown(packed(tmp_path / "t.tgz", [*content, AFTER]), bounds)
    assert items == ["undecodable 0", "sample 0", "sample 0"]
    assert peak < PEAK + 60


def test_memory_for_many_samples_with_long_names(tmp_path: Path) -> None:
    """100 names of 900 kB each: what is remembered of a key does not grow with it."""
    content = (
        extended(record(b"path", b"%06d" % i + b"x" * 900_000 + b".png")) + header("b.png", 0) for i in range(100)
    )
    peak, items = grown(packed(tmp_path / "t.tgz", [*content, END]))
    assert items == ["sample 0"] * 100
    assert peak < PEAK


@pytest.mark.parametrize("name", [b"\xff\xfe/\xc3.png", b"d/" * 5000 + b"x.png", b"k" * 70_000 + b".png"])
def test_names_of_any_bytes_and_lengths_are_read(tmp_path: Path, name: bytes) -> None:
    for long in (extended(record(b"path", name)), extended(name + b"\0", tarfile.GNUTYPE_LONGNAME)):
        (sample, *_) = read(tmp_path, long + header("b.png", 0) + AFTER)
        assert isinstance(sample, Sample)
        assert sample.key.encode(errors="surrogateescape") == name.removesuffix(b".png")
