"""Tars that are cut off, damaged or no tars: what was read stands, what was lost is told."""

from __future__ import annotations

import gzip
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.records import Sample
from tests.streams.damaged import NAMES, members, read, shard, starts, told
from tests.streams.made import SHARED_DATA, picture, rejected, samples, tar_bytes


def several(keys: str) -> bytes:
    return tar_bytes(member for i, key in enumerate(keys) for member in members(i, key))


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
        begun = [f"{k}?" for k in NAMES if first[k] + 512 <= cut < known_complete[k]]
        assert len(begun) <= 1
        assert told(items) == [*good, *begun, *(["#"] if cut < end + 512 else [])], cut


def test_a_tar_cut_where_its_data_is_zero_is_not_taken_for_complete(tmp_path: Path) -> None:
    content = tar_bytes([("a.png", picture(1)), ("a.bin", bytes(4096)), ("b.png", picture(2))])
    items = read(tmp_path, content[: starts(content)[2][1]])
    assert told(items) == ["a?", "#"]
    assert "end-of-archive" in rejected(items)[1].reason


def test_archives_behind_each_other_are_read_on(tmp_path: Path, whole: bytes) -> None:
    """As `cat` makes them."""
    assert len(whole) % 10240 == 0
    assert [s.key for s in samples(shard(tmp_path / "t.tar", whole + several("efgh")))] == list("abcdefgh")
    assert told(read(tmp_path, whole + whole)) == [*"abcd", "a!", "b!", "c!", "d!"]


def test_an_archive_that_ends_within_a_record_may_be_one_that_was_wiped(tmp_path: Path, whole: bytes) -> None:
    """Two blocks of zeros may have been a header and its content, so that nobody knows what belonged to its sample."""
    labelled = tar_bytes([(f"{key}.{kind}", picture(1)) for key in "abc" for kind in ("png", "cls")])
    end = 6 * 1024
    assert told(read(tmp_path, labelled[: end + 1024] + several("efgh"))) == ["a", "b", "c?", "#", "e?", *"fgh"]
    assert told(read(tmp_path, labelled[: end + 1024])) == list("abc")
    label = dict(starts(labelled))["a.cls"]
    wiped = labelled[:label] + bytes(1024) + labelled[label + 1024 :]
    assert told(read(tmp_path, wiped)) == ["a?", "#", "b?", "c"]


@pytest.mark.parametrize("complete", [0, 2, 4])
def test_a_long_tail_of_zeros_is_no_end(tmp_path: Path, whole: bytes, complete: int) -> None:
    """As a power cut leaves it in a file whose size was known before its content."""
    offsets = starts(whole)
    following = [offset for name, offset in offsets if name[0] > NAMES[complete - 1]] if complete else [0]
    end = following[0] if following else offsets[-1][1] + 512
    items = read(tmp_path, whole[:end] + bytes(1 << 20))
    assert told(items) == [*NAMES[:complete][:-1], *([f"{NAMES[complete - 1]}?"] if complete else []), "#"]
    assert "more than the end of any archive" in rejected(items)[-1].reason


def test_what_follows_the_end_and_is_no_tar_is_damage_and_costs_no_sample(tmp_path: Path, whole: bytes) -> None:
    for rubbish in (b"rubbish", b"rubbish" * 1000, whole[7:], gzip.compress(whole), b"0" * 600):
        items = read(tmp_path, whole + rubbish)
        assert told(items) == [*NAMES, "#"]
        assert "more data follows the end-of-archive marker" in rejected(items)[0].reason


def test_a_wiped_part_is_not_taken_for_the_end_of_an_archive(tmp_path: Path) -> None:
    """Members of 1 KiB: behind every wiped page stands a whole header, as behind an end marker."""
    content = tar_bytes((f"{i:03d}.png", bytes([i]) * 500) for i in range(40))
    for start, size in ((1024, 512), (3072, 1536), (4096, 4096), (8192, 8192)):
        items = read(tmp_path, content[:start] + bytes(size) + content[start + size :])
        before = start // 1024
        assert told(items) == [*(f"{i:03d}" for i in range(before - 1)), f"{before - 1:03d}?", "#"]


def test_behind_a_damaged_header_reading_goes_on_where_its_size_leads_to_the_next(tmp_path: Path, whole: bytes) -> None:
    """The samples before and behind it may lack the member, and the next header may lack its long name."""
    for name, expected in {
        "a.png": ["#", "a?", "b", "c", "d"],
        "b.bin": ["a", "b?", "#", "c?", "d"],
        "c.png": ["a", "b?", "#", "c?", "d"],
        "d.bin": ["a", "b", "c", "d?", "#"],
    }.items():
        damaged = bytearray(whole)
        damaged[dict(starts(whole))[name] + 3] ^= 1
        assert told(read(tmp_path, bytes(damaged))) == expected


def test_a_long_name_that_is_damaged_names_no_sample(tmp_path: Path) -> None:
    """The member itself has a whole header with the first 100 bytes of the name."""
    long = "d" * 90 + "/" + "k" * 90
    contents = [("a.png", b"1"), (f"{long}.png", b"2"), (f"{long}.txt", b"3"), ("c.png", b"4")]
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        damaged = bytearray(tar_bytes(contents, format))
        damaged[1024 + 5] ^= 1
        assert told(read(tmp_path, bytes(damaged))) == ["a?", "#", f"{long}?", "c"]


@pytest.mark.parametrize("small", [b"", b"x"])
def test_members_of_a_tar_in_a_tar_are_never_taken_for_samples(tmp_path: Path, small: bytes) -> None:
    """Whatever bit of its header is damaged, the size included, and where its header is wiped."""
    inner = tar_bytes((f"inner{i}.png", small) for i in range(30))
    content = tar_bytes([("a.png", b"1"), ("b.tar", inner), ("c.png", b"2"), ("d.png", b"3"), ("e.png", b"4")])
    start = dict(starts(content))["b.tar"]
    for bit in [*range(0, 100 * 8, 31), *range(124 * 8, 157 * 8), *range(157 * 8, 512 * 8, 31)]:
        damaged = bytearray(content)
        damaged[start + bit // 8] ^= 1 << bit % 8
        keys = told(read(tmp_path, bytes(damaged)))
        if 148 <= bit // 8 < 156:  # in the sum itself, where a blank is as good as a zero
            assert keys in (["a?", "#"], ["a", "b?", "c", "d", "e"]), bit
        else:
            assert keys == ["a?", "#"], bit
    for wiped in (512, 1536):
        keys = told(read(tmp_path, content[:start] + bytes(wiped) + content[start + wiped :]))
        assert keys == ["a?", "#"]


def test_the_end_is_padded_to_a_record_or_not_at_all(tmp_path: Path) -> None:
    for count in range(1, 24):
        names = [f"{i:02d}" for i in range(count)]
        content = tar_bytes((f"{name}.png", bytes(i % 2)) for i, name in enumerate(names))
        assert told(read(tmp_path, content)) == names
        end = max(offset + 512 + 512 * (int(name[:2]) % 2) for name, offset in starts(content))
        assert told(read(tmp_path, content[: end + 1024])) == names


@pytest.mark.parametrize("content", [b"", b"no tar at all", bytes(range(256)) * 8, b"\x1f\x8b\x08"])
def test_what_is_no_tar_is_damaged(tmp_path: Path, content: bytes) -> None:
    assert told(read(tmp_path, content)) == ["#"]


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
