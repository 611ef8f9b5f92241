"""Tars that are cut off, damaged or no tars: what was read stands, what was lost is told."""

from __future__ import annotations

import bz2
import gzip
import lzma
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.records import Rejected, Sample
from tests.streams.damaged import NAMES, members, read, shard, starts
from tests.streams.made import SHARED_DATA, picture, rejected, samples, tar_bytes


def test_wherever_a_tar_is_cut_the_samples_before_come_through_and_the_loss_is_told(
    tmp_path: Path, whole: bytes
) -> None:
    """A sample is complete when the header after it was read; the end marker's first block is enough."""
    offsets = starts(whole)
    first = {key: next(o for name, o in offsets if name.startswith(key)) for key in NAMES}
    end = offsets[-1][1] + 512 + 1024
    known_complete = {k: first[n] + 512 for k, n in pairwise(NAMES)} | {"d": end + 512}
    cuts = sorted({*range(0, end + 513, 512), *range(100, end, 1717), end + 511})
    for cut in cuts:
        items = read(tmp_path, whole[:cut])
        good = [item.key for item in items if isinstance(item, Sample)]
        assert good == [k for k in NAMES if known_complete[k] <= cut], cut
        if cut < end + 512:
            (bad,) = rejected(items)
            assert bad.kind == "undecodable"
            begun = [k for k in NAMES if first[k] + 512 <= cut and known_complete[k] > cut]
            assert bad.key == (begun[-1] if begun else ""), cut
            assert isinstance(items[-1], Rejected)
        else:
            assert not rejected(items)


def test_a_tar_cut_where_its_data_is_zero_is_not_taken_for_complete(tmp_path: Path) -> None:
    content = tar_bytes([("a.png", picture(1)), ("a.bin", bytes(4096)), ("b.png", picture(2))])
    items = read(tmp_path, content[: starts(content)[2][1]])
    assert [type(item) for item in items] == [Rejected]
    assert "end-of-archive" in items[0].reason  # type: ignore[union-attr]


def test_a_damaged_header_in_the_middle_is_told(tmp_path: Path, whole: bytes) -> None:
    """tarfile itself stops there without a word."""
    offset = dict(starts(whole))["c.png"]
    damaged = bytearray(whole)
    damaged[offset + 3] ^= 1
    items = read(tmp_path, bytes(damaged))
    assert [item.key for item in items if isinstance(item, Sample)] == ["a"]
    assert [bad.key for bad in rejected(items)] == ["b"]


def test_a_second_archive_behind_the_first_is_told(tmp_path: Path, whole: bytes) -> None:
    items = read(tmp_path, whole + tar_bytes(members(9, "z")))
    assert [bad.key for bad in rejected(items)] == ["d"]
    assert "more data follows" in rejected(items)[0].reason


def test_padding_behind_the_end_is_fine(tmp_path: Path, whole: bytes) -> None:
    assert len(samples(shard(tmp_path / "t.tar", whole + bytes(51200)))) == 4


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_read_alike_and_tell_when_cut(tmp_path: Path, whole: bytes, compress) -> None:  # type: ignore[no-untyped-def]
    packed = compress(whole)
    assert [s.key for s in samples(shard(tmp_path / "t.tar.x", packed))] == NAMES
    for cut in range(1, len(packed) - 1, max(1, len(packed) // 23)):
        items = read(tmp_path, packed[:cut])
        assert len(rejected(items)) == 1, cut


def test_gzip_of_two_members_is_read_to_its_end(tmp_path: Path, whole: bytes) -> None:
    packed = gzip.compress(whole[:2048]) + gzip.compress(whole[2048:])
    assert [s.key for s in samples(shard(tmp_path / "t.tgz", packed))] == NAMES


def test_a_wrong_gzip_checksum_is_told(tmp_path: Path, whole: bytes) -> None:
    packed = bytearray(gzip.compress(whole))
    packed[-6] ^= 1
    assert len(rejected(read(tmp_path, bytes(packed)))) == 1


@pytest.mark.parametrize("content", [b"", b"no tar at all", bytes(range(256)) * 8, b"\x1f\x8b\x08"])
def test_what_is_no_tar_is_one_rejected_row(tmp_path: Path, content: bytes) -> None:
    items = read(tmp_path, content)
    assert [type(item) for item in items] == [Rejected]
    assert items[0].kind == "undecodable"  # type: ignore[union-attr]


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=4000), at=st.integers(0, 9000))
def test_noise_never_raises(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    content = bytearray(tar_bytes(m for i, key in enumerate(NAMES) for m in members(i, key)))
    content[at : at + len(noise)] = noise
    list(shard(tmp_path_factory.mktemp("noise") / "t.tar", bytes(content)).read())
    list(shard(tmp_path_factory.mktemp("noise") / "n.tar", noise).read())


def test_flipped_bits_in_headers_lose_no_sample_silently(tmp_path: Path, whole: bytes) -> None:
    """Every header is covered by its sum: what is not read whole must be reported."""
    originals = {s.key: s for s in samples(shard(tmp_path / "o.tar", whole))}
    for _, offset in starts(whole):
        for byte in range(0, 500, 23):
            damaged = bytearray(whole)
            damaged[offset + byte] ^= 1 << byte % 8
            items = read(tmp_path, bytes(damaged))
            good = [item for item in items if isinstance(item, Sample)]
            assert rejected(items) or len(good) == len(originals)
            assert all(s.image == originals[s.key].image for s in good)


def test_flipped_bits_anywhere_in_a_real_tar_never_raise(tmp_path: Path) -> None:
    real = SHARED_DATA / "lfw" / "dev-00000.tar"
    if not real.exists():
        pytest.skip(f"{real} is not here")
    whole = real.read_bytes()[:200_000]
    for i in range(60):
        damaged = bytearray(whole)
        for j in range(5):
            damaged[(i * 7919 + j * 104_729) % len(whole)] ^= 1 << (i + j) % 8
        assert rejected(read(tmp_path, bytes(damaged)))
