"""Compressed tars, told by their first bytes: read to their end like plain ones, or named where they are not read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
from pathlib import Path
from typing import IO

import pytest

from pipeline.streams import compressed
from tests.streams.damaged import NAMES, members, read, shard, told
from tests.streams.made import picture, rejected, samples, tar_bytes
from tests.streams.squeezed import Squeeze, every_way


@every_way
def test_they_read_like_plain_ones_whatever_they_are_called(tmp_path: Path, whole: bytes, squeeze: Squeeze) -> None:
    for name in ("t.tar", "t.tgz", "t.zip"):
        assert [s.key for s in samples(shard(tmp_path / name, squeeze(whole)))] == NAMES


@every_way
def test_several_members_are_read_to_the_last(tmp_path: Path, whole: bytes, squeeze: Squeeze) -> None:
    """One tar in two members, and two tars, each in its own: both are what `cat` makes."""
    half = squeeze(whole[:2048]) + squeeze(b"") + squeeze(whole[2048:])
    assert [s.key for s in samples(shard(tmp_path / "t.tar", half))] == NAMES
    second = tar_bytes(member for i, key in enumerate("efgh") for member in members(i, key))
    for joined in (squeeze(whole) + squeeze(second), squeeze(whole + second)):
        assert [s.key for s in samples(shard(tmp_path / "t.tar", joined))] == list("abcdefgh")


@every_way
def test_they_tell_when_they_are_cut(tmp_path: Path, whole: bytes, squeeze: Squeeze) -> None:
    """A cut among the last bytes, behind all content, costs no sample."""
    packed = squeeze(whole)
    for cut in [*range(8, len(packed), max(1, len(packed) // 23)), len(packed) - 1]:
        keys = told(read(tmp_path, packed[:cut]))
        good = [key for key in keys if key in NAMES]
        assert good == NAMES[: len(good)]
        assert keys[len(good) :] in (["#"], [f"{[*NAMES, '-'][len(good)]}?", "#"]), cut
    assert told(read(tmp_path, packed + packed[: len(packed) // 2]))[-1] == "#"


@every_way
def test_rubbish_behind_the_last_member_is_damage(tmp_path: Path, whole: bytes, squeeze: Squeeze) -> None:
    """It may have been a further member. The standard library passes over it."""
    assert told(read(tmp_path, squeeze(whole) + b"rubbish")) == [*NAMES, "#"]


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress, lzma.compress])
def test_zeros_behind_members_are_padding(tmp_path: Path, whole: bytes, squeeze: Squeeze) -> None:
    packed = squeeze(whole[:3000]) + bytes(512) + squeeze(whole[3000:]) + bytes(5120)
    assert [s.key for s in samples(shard(tmp_path / "t.tar", packed))] == NAMES


def test_a_wrong_checksum_is_told(tmp_path: Path, whole: bytes) -> None:
    for squeeze, behind in ((gzip.compress, 6), (bz2.compress, 4), (lzma.compress, 40)):
        packed = bytearray(squeeze(whole))
        packed[-behind] ^= 1
        assert told(read(tmp_path, bytes(packed)))[-1] == "#"


@every_way
def test_all_that_lies_before_the_damage_comes_out(tmp_path: Path, squeeze: Squeeze) -> None:
    """Noise in place of images, so that the compressed tar is as long as the plain one."""
    noise = random.Random(0)
    whole = tar_bytes((f"{i:03d}.png", noise.randbytes(20_000)) for i in range(100))
    packed = squeeze(whole)
    keys = told(read(tmp_path, packed[: len(packed) // 2]))
    slack = 45 if squeeze is bz2.compress else 8  # bzip2 unpacks blocks of 900 kB, zstd of 128 KiB
    assert 49 - slack <= len(keys) - 2 <= 50
    assert keys == [*(f"{i:03d}" for i in range(len(keys) - 2)), f"{len(keys) - 2:03d}?", "#"]


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x1f\x9d\x90", "compress (.Z) file"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive"),
        (b"PK\x03\x04\x14\0", "zip archive"),
        (b"Rar!\x1a\x07\x01\0", "rar archive"),
        (b"LZIP\x01", "lzip file"),
        (b"PAR1", "parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, start: bytes, name: str) -> None:
    (bad,) = rejected(read(tmp_path, start + bytes(4000)))
    assert f"the file is a {name}" in bad.reason
    assert "gzip, bzip2, xz, zstd or lz4" in bad.reason
    assert bad.kind == "damaged"


@pytest.mark.parametrize("name", ["BZh91AY&SY.png", "PK\x03\x04.png", "Rar!.png", "LZIP.png"])
def test_a_tar_whose_first_name_looks_compressed_is_a_tar(tmp_path: Path, name: str) -> None:
    items = read(tmp_path, tar_bytes([(name, picture(1)), ("b.png", picture(2))]))
    assert [item.key for item in items] == [name.removesuffix(".png"), "b"]


def test_an_xz_file_may_not_ask_for_all_memory(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = lzma.compress(whole, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 26}])
    assert [s.key for s in samples(shard(tmp_path / "t.tar", packed))] == NAMES
    monkeypatch.setattr(compressed, "DICTIONARY", 1 << 25)
    (bad,) = rejected(read(tmp_path, packed))
    assert "Memory usage limit" in bad.reason


@every_way
def test_storage_that_fails_is_no_damage(tmp_path: Path, squeeze: Squeeze, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where its error has no number, as those of networks."""

    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads > 3:
                raise OSError("connection lost")
            return super().read(min(size or 0, 600))

    def failing(url: str) -> IO[bytes]:
        return Failing(squeeze(tar_bytes([("a.png", random.Random(0).randbytes(9000))])))

    monkeypatch.setattr("pipeline.streams.shards.open_url", failing)
    with pytest.raises(OSError, match="connection lost"):
        read(tmp_path, b"")
