"""Tars out: exact, reproducible, and readable by strangers."""

from __future__ import annotations

import hashlib
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.media.records import Sample
from pipeline.streams.contract import Unwritable
from pipeline.streams.names import LONGEST_COMPONENT, escape_dots, safe_component, text_of, unescape_dots
from pipeline.streams.shards import IMAGE_EXTENSIONS, TarShard, TarWriter, WebDatasetInput
from tests.streams.made import disk, folders, picture, samples, write

extensions = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z][a-z0-9_]{0,8})?", fullmatch=True).filter(
    lambda e: e.rpartition(".")[2] not in IMAGE_EXTENSIONS
)
names = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\\"), min_size=1)
keys = st.lists(names.filter(lambda n: n not in (".", "..") and ":" not in n), min_size=1, max_size=3).map("/".join)
made_samples = st.builds(
    Sample,
    key=keys,
    image=st.binary(max_size=2000),
    image_ext=st.sampled_from(["jpg", "png", "left.png", "JPG"]),
    members=st.dictionaries(extensions, st.binary(max_size=2000), max_size=4),
)


def tar(root: Path, items: list[Sample], *, verbatim: bool = False) -> Path:
    data, parts = folders(root)
    hashes = write(TarWriter(store=disk(data), parts=parts, name="t", verbatim_names=verbatim), items)
    content = (data / "t.tar").read_bytes()
    assert hashes == {"t.tar": hashlib.sha256(content).hexdigest()}
    assert not (parts / "t.tar").exists()
    return data / "t.tar"


def read(path: Path) -> list[Sample]:
    return samples(TarShard(str(path), "t", WebDatasetInput(urls=(str(path),))))


@settings(max_examples=40)
@given(items=st.lists(made_samples, max_size=5, unique_by=lambda s: s.key))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, items: list[Sample]) -> None:
    back = read(tar(tmp_path_factory.mktemp("tar"), items))
    assert [(unescape_dots(s.key), s.image_ext, s.image, s.members) for s in back] == [
        (s.key, s.image_ext, s.image, s.members) for s in items
    ]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    items = [Sample(key=f"d/{'x' * 120}{i}", image=picture(i), image_ext="png") for i in range(5)]
    first, second = tar(tmp_path / "a", items), tar(tmp_path / "b", items)
    assert first.read_bytes() == second.read_bytes()


def test_nothing_is_visible_before_the_commit_and_nothing_is_left_after_an_abort(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    writer = TarWriter(store=disk(data), parts=parts, name="t", verbatim_names=False)
    writer.add([Sample(key="a", image=b"1", image_ext="png")])
    assert not data.exists()
    writer.abort()
    assert not data.exists()
    assert not list(parts.iterdir())


def test_a_member_never_replaces_the_image(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    writer = TarWriter(store=disk(data), parts=parts, name="t", verbatim_names=False)
    with pytest.raises(Unwritable, match="'png'"):
        writer.add([Sample(key="a", image=b"1", image_ext="png", members={"png": b"mask"})])


@given(keys)
def test_escaped_keys_have_no_dot_in_their_name_and_come_back(key: str) -> None:
    assert "." not in escape_dots(key).rpartition("/")[2]
    assert unescape_dots(escape_dots(key)) == key


ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("%/.\\ \0\n~"), max_size=300)


@given(
    ANY_TEXT | st.sampled_from(["", ".", "..", "...", "CON", "com1.tar", "a ", "%", "%25", "%~", "\udc80", "\ud800"])
)
def test_a_safe_component_is_one_name_and_comes_back(text: str) -> None:
    name = safe_component(text)
    assert name not in ("", ".", "..")
    assert not set(name) & {"/", "\\", "\0", "\n", ":"}
    assert name.strip(".") == name.rstrip(" ") == name
    assert PureWindowsPath(name).name == name
    assert not is_reserved(name)
    assert len(name.encode()) <= LONGEST_COMPONENT
    if "%~" in name:
        with pytest.raises(ValueError, match="is the name of no text"):
            text_of(name)
    else:
        assert text_of(name) == text


@given(ANY_TEXT, ANY_TEXT)
def test_two_texts_have_two_names(one: str, other: str) -> None:
    assert (safe_component(one) == safe_component(other)) == (one == other)


@pytest.mark.parametrize("length", [199, 200, 201, 5000])
def test_long_texts_that_begin_alike_have_two_names(length: int) -> None:
    assert safe_component("é" * length) != safe_component("é" * (length - 1) + "e")


@pytest.mark.parametrize("name", ["a/b", "..", "", "%2f", "%41", "a%", "CON", "%~" + 32 * "0"])
def test_only_names_of_ours_are_read_back(name: str) -> None:
    with pytest.raises(ValueError, match="is the name of no text"):
        text_of(name)


def is_reserved(name: str) -> bool:
    """Whether Windows takes the name for a device; from Microsoft's list, not from the code under test."""
    devices = ["CON", "PRN", "AUX", "NUL"] + [f"{port}{i}" for port in ("COM", "LPT") for i in "0123456789¹²³"]
    return name.split(".")[0].rstrip(" ").upper() in devices


def test_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    import numpy as np
    import webdataset as wds
    from PIL import Image

    items = [
        Sample(key=f"dir/x.{i}", image=picture(i), image_ext="png", label=i, members={"cls": b"%d" % i, "txt": b"hi"})
        for i in range(4)
    ]
    path = tar(tmp_path, items)
    found = list(wds.WebDataset(str(path), shardshuffle=False).decode("pil"))
    assert [s["__key__"] for s in found] == [f"dir/x%2E{i}" for i in range(4)]
    assert [s["cls"] for s in found] == [0, 1, 2, 3]
    assert [s["txt"] for s in found] == ["hi"] * 4
    for item, sample in zip(items, found, strict=True):
        (tmp_path / "x.png").write_bytes(item.image)
        assert np.array_equal(np.array(sample["png"]), np.array(Image.open(tmp_path / "x.png")))


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    import webdataset as wds

    with wds.ShardWriter(str(tmp_path / "w-%03d.tar"), maxcount=2, verbose=0) as writer:
        for i in range(3):
            writer.write({"__key__": f"k{i}", "jpg": picture(i, "jpeg"), "cls": i, "json": {"i": i}})
    stream = WebDatasetInput(urls=(str(tmp_path / "w-{000..001}.tar"),)).open()
    assert [shard.name for shard in stream.shards] == ["w-000", "w-001"]
    found = [s for shard in stream.shards for s in samples(shard)]
    assert [(s.key, s.label, s.image) for s in found] == [(f"k{i}", i, picture(i, "jpeg")) for i in range(3)]
    assert found[1].members["json"] == b'{"i": 1}'


def test_webdataset_archives_of_another_dialect_read_alike(tmp_path: Path) -> None:
    import webdataset as wds

    with wds.TarWriter(str(tmp_path / "w.tar.gz"), compress=True) as writer:
        writer.write({"__key__": "d/k", "png": picture(1), "seg.png": picture(2), "txt": "é"})
    (sample,) = read(tmp_path / "w.tar.gz")
    assert (sample.key, sample.image, sample.image_ext) == ("d/k", picture(1), "png")
    assert sample.members == {"seg.png": picture(2), "txt": "é".encode()}
