"""What comes out of tars that are whole, cut off, damaged or hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import Rejected, Sample
from pipeline.streams.names import split_name
from pipeline.streams.shards import TarShard, WebDatasetInput
from tests.streams.made import SHARED_DATA, picture, rejected, samples, tar_bytes

END = 1024
NAMES = ["a", "b", "c", "d"]


def shard(path: Path, content: bytes, **options: object) -> TarShard:
    path.write_bytes(content)
    return TarShard(str(path), path.stem, WebDatasetInput.model_validate({"urls": str(path), **options}))


def read(tmp_path: Path, content: bytes, **options: object) -> list[Sample | Rejected]:
    return list(shard(tmp_path / "t.tar", content, **options).read())


def members(seed: int, key: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", picture(seed)), (f"{key}.cls", str(seed).encode()), (f"{key}.bin", bytes(700))]


@pytest.fixture(scope="module")
def whole() -> bytes:
    return tar_bytes(m for i, key in enumerate(NAMES) for m in members(i, key))


def starts(content: bytes) -> list[tuple[str, int]]:
    """(member name, offset of its header) of every member."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [(info.name, info.offset) for info in tar]


def test_a_whole_tar_gives_every_sample_with_all_its_members(tmp_path: Path, whole: bytes) -> None:
    read = samples(shard(tmp_path / "t.tar", whole))
    assert [(s.key, s.label, s.image_ext) for s in read] == [(k, i, "png") for i, k in enumerate(NAMES)]
    assert [s.image for s in read] == [picture(i) for i in range(4)]
    assert read[2].members == {"cls": b"2", "bin": bytes(700)}


def test_wherever_a_tar_is_cut_the_samples_before_come_through_and_the_loss_is_told(
    tmp_path: Path, whole: bytes
) -> None:
    """A sample is complete when the header after it was read; the end marker's first block is enough."""
    offsets = starts(whole)
    first = {key: next(o for name, o in offsets if name.startswith(key)) for key in NAMES}
    end = offsets[-1][1] + 512 + 1024
    known_complete = {k: first[n] + 512 for k, n in zip(NAMES, NAMES[1:], strict=False)} | {"d": end + 512}
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
    assert "no regular file" in rejected(items)[0].reason


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


def test_an_oversized_member_is_rejected_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.streams.tarstream.LARGEST_MEMBER", 100)
    items = read(tmp_path, tar_bytes([("a.png", bytes(101)), ("b.png", bytes(100))]))
    assert [item.key for item in items if isinstance(item, Sample)] == ["b"]
    assert "101 bytes" in rejected(items)[0].reason


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
        ("json:label", ("json", b'{"label": "5"}'), None),
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


def test_a_real_tar_reads_whole() -> None:
    real = SHARED_DATA / "lfw" / "dev-00000.tar"
    if not real.exists():
        pytest.skip(f"{real} is not here")
    (only,) = WebDatasetInput(urls=(str(real),)).open().shards
    with tarfile.open(real) as tar:
        contents = {i.name: tar.extractfile(i).read() for i in tar}  # type: ignore[union-attr]
    read = samples(only)
    assert {f"{s.key}.jpg": s.image for s in read} | {
        f"{s.key}.json": s.members["json"] for s in read
    } == contents
