"""All writers alike: whatever a sample is called, it is written inside of data/ and read back, or refused whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.streams import WRITERS, open_writer
from pipeline.streams.contract import InputStream, ShardWriter, Unwritable
from pipeline.streams.names import safe_component, text_of, unescape_dots
from pipeline.streams.quarantine import read_quarantine
from pipeline.streams.store import DiskStore
from tests.streams.made import disk, folders, picture, tree, write, write_quarantine
from tests.streams.test_parquet_writing import restored

ROOT = Path(__file__).resolve().parents[2]
NASTY = (
    "..", ".", "", "/", "\0", "\n", "\\", "\ud800", "\udce9", "\u2028", "\x85", "a", "b", "é", "%", "%2F", "~", "CON",
    "aux.h", "metadata", "a" * 180, "ß" * 120, " ", ":", "-1", "0", "doppel", "C:", "../" * 3, "x/y",
)  # fmt: skip
texts = st.lists(st.sampled_from(NASTY), min_size=1, max_size=5).map("".join) | st.text(max_size=6)
extensions = st.sampled_from(["png", "txt", "json", "cls", "seg.png", "npy"]) | texts
made_samples = st.builds(
    Sample,
    key=texts,
    image=st.binary(max_size=20),
    image_ext=st.sampled_from(["png", "jpg", "left.png"]) | texts,
    label=st.none() | st.integers(-2, 3),
    members=st.dictionaries(extensions, st.binary(max_size=9), max_size=3),
)
class_names = st.none() | st.lists(texts, min_size=3, max_size=3, unique=True).map(tuple)


def of_tar(out: Path, stream: InputStream, accepted: list[Sample]) -> None:
    held = dict[str, bytes]()
    with tarfile.open(out / "data" / "shard.tar", "r:") as tar:
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            assert info.name not in held
            held[info.name] = content.read()
    expected = dict[str, bytes]()
    for name, content in held.items():
        key, _, extension = name.rpartition("/")[2].partition(".")
        folder = name.rpartition("/")[0]
        expected[f"{unescape_dots(f'{folder}/{key}' if '/' in name else key)}\0{extension}"] = content
    assert expected == {
        f"{s.key}\0{extension}": content
        for s in accepted
        for extension, content in [(s.image_ext, s.image), *s.members.items()]
    }


def of_parquet(out: Path, stream: InputStream, accepted: list[Sample]) -> None:
    rows = pq.read_table(out / "data" / "shard.parquet").to_pylist()
    for row, sample in zip(rows, accepted, strict=True):
        back = restored(row)
        assert (back.key, back.image, back.image_ext, back.label) == (
            sample.key, sample.image, sample.image_ext, sample.label,
        )  # fmt: skip
        assert {**({"cls": b"%d" % sample.label} if sample.label is not None else {}), **sample.members} == back.members


def of_folder(out: Path, stream: InputStream, accepted: list[Sample]) -> None:
    lines = (out / "provenance" / "shard.provenance.jsonl").read_text().splitlines()
    for line, sample in zip(map(json.loads, lines), accepted, strict=True):
        assert (out / "data" / line["file"]).read_bytes() == sample.image
        assert all((out / "data" / path).is_file() for path in line["sidecars"])
        *above, name = line["file"].split("/")
        stem = name.removesuffix(f".{safe_component(sample.image_ext)}")
        if "%~" in line["file"]:  # too long, and cut: its provenance tells the key
            continue
        if sample.label in (None, -1):
            assert "/".join(map(text_of, [*above, stem])) == sample.key.removeprefix("./")
        else:
            (folder,) = above
            label = text_of(folder)
            assert label == (stream.label_names[sample.label] if stream.label_names else str(sample.label))
            assert text_of(stem) == sample.key.removeprefix("./").removeprefix(f"{label}/")


READ_BACK: dict[str, Callable[[Path, InputStream, list[Sample]], None]] = {
    "webdataset": of_tar, "parquet": of_parquet, "folder": of_folder,
}  # fmt: skip


def opened(root: Path, format: str, stream: InputStream, name: str = "shard") -> ShardWriter:
    data, parts = folders(root)
    data.mkdir(exist_ok=True)
    return open_writer(format, store=disk(data), parts=parts, name=name, stream=stream)


@given(items=st.lists(st.lists(made_samples, min_size=1, max_size=2), max_size=4), names=class_names)
@pytest.mark.parametrize("format", WRITERS)
def test_whatever_it_is_called_it_stays_inside_and_comes_back(
    format: str, items: list[list[Sample]], names: tuple[str, ...] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("w")
    (root / "canary").write_bytes(b"alive")
    stream = InputStream(shards=[], label_names=names)
    writer, accepted = opened(root / "out", format, stream), list[Sample]()
    for samples in items:
        with suppress(Unwritable):
            writer.add(samples)
            accepted += samples
    stored = writer.commit()
    found = tree(root)
    assert found.pop("canary") == b"alive"
    assert found.keys() == {f"out/{path}" for path in stored}
    assert all(path.startswith(("data/", "provenance/shard.")) for path in stored)
    assert not any(part.startswith(".") for path in stored for part in path.split("/"))
    READ_BACK[format](root / "out", stream, accepted)


def plain(**changes: Any) -> Sample:
    return Sample(**{"key": "k", "image": picture(1), "image_ext": "png", **changes})


NOT_IN = {
    "webdataset": [
        plain(image_ext="png", members={"png": b"mask"}), plain(key="../x"), plain(key="/x"), plain(key=""),
        plain(key="a/"), plain(key="a\0b"), plain(key="\ud800"), plain(image_ext="a/b"), plain(members={"": b""}),
        plain(key="x" * 5000), plain(key="d/" * 3000), plain(key="good"),
    ],
    "parquet": [
        plain(key="\ud800"), plain(key="\udce9"), plain(members={"\udce9": b""}), plain(image_ext="\udce9"),
        plain(label=2), plain(label=-2), plain(key="good"), plain(label=1 << 70),
    ],
    "folder": [
        plain(members={"seg.png": b""}), plain(members={"zip": b""}), plain(members={"png": b""}), plain(label=2),
        plain(label=-2), plain(key="d/" * 3000), plain(image_ext="x" * 300, key="y" * 300), plain(key="good"),
        plain(key="metadata", members={"csv": b""}), plain(key="good.png/inside"), plain(members={"doppel.json": b"{"}),
        plain(members={"doppel.json": b"3"}),
    ],
}  # fmt: skip
"""What a format cannot hold, after `good` was written."""


@pytest.mark.parametrize(("format", "sample"), [(f, s) for f, samples in NOT_IN.items() for s in samples])
def test_what_a_format_cannot_hold_is_refused_with_all_that_came_with_it(
    tmp_path: Path, format: str, sample: Sample
) -> None:
    stream = InputStream(shards=[], label_names=("cat", "dog"))
    good = [plain(key="good"), plain(key="good-1")]
    alone, writer = opened(tmp_path / "alone", format, stream), opened(tmp_path / "with", format, stream)
    for one in (alone, writer):
        one.add(good)
    with pytest.raises(Unwritable, match=r"^[^\n]+$"):
        writer.add([plain(key="before"), sample])
    for one in (alone, writer):
        one.add([plain(key="before")])  # it was not written
        one.commit()
    assert tree(tmp_path / "alone") == tree(tmp_path / "with")


@pytest.mark.parametrize("format", WRITERS)
def test_long_keys_and_many_folders_are_no_trouble(tmp_path: Path, format: str) -> None:
    items = [plain(key="x" * 256), plain(key="é" * 500), plain(key="x" * 257), plain(key="/".join("abcdefgh" * 10))]
    assert write(opened(tmp_path, format, InputStream(shards=[])), items)
    READ_BACK[format](tmp_path, InputStream(shards=[]), items)


@pytest.mark.parametrize("format", WRITERS)
def test_a_shard_of_the_longest_name_is_written(tmp_path: Path, format: str) -> None:
    name = safe_component("x" * 400)
    writer = opened(tmp_path, format, InputStream(shards=[]), name)
    writer.add([plain()])
    assert writer.commit()
    assert all(len(part) <= 240 for path in tree(tmp_path) for part in path.split("/"))


def test_a_key_of_another_shard_is_refused_in_a_folder(tmp_path: Path) -> None:
    stream = InputStream(shards=[])
    write(opened(tmp_path, "folder", stream, "one"), [plain(key="a/b")])
    second = opened(tmp_path, "folder", stream, "two")
    with pytest.raises(Unwritable, match=r"data/a/b\.png exists already, and is no file of this shard"):
        second.add([plain(key="a/b", image=b"other")])
    with pytest.raises(Unwritable, match=r"data/a/b\.png is a file, and cannot be a folder"):
        second.add([plain(key="a/b.png/c")])
    second.add([plain(key="a/c")])
    second.commit()
    assert tree(tmp_path / "data") == {"a/b.png": picture(1), "a/c.png": picture(1)}


@pytest.mark.parametrize("seen", [True, False])
def test_two_workers_that_write_one_key_at_a_time_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    first, second = (opened(tmp_path, "folder", InputStream(shards=[]), name) for name in ("one", "two"))
    second.add([plain(key="0"), plain(key="a", image=b"second"), plain(key="z")])
    first.add([plain(key="a", image=b"first")])
    first.commit()
    if not seen:  # the first commits when the second has already looked
        monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(
        UserError, match=r"exists already: another shard, .* run again, puts one of them into quarantine"
    ):
        second.commit()
    second.abort()
    assert tree(tmp_path / "data") == {"a.png": b"first"}
    assert [p.name for p in (tmp_path / "provenance").iterdir()] == ["one.provenance.jsonl"]


def test_a_link_in_the_data_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    writer = opened(tmp_path / "out", "folder", InputStream(shards=[], label_names=("cat",)))
    (tmp_path / "out" / "data" / "cat").symlink_to(tmp_path / "victim")
    with pytest.raises(Unwritable, match="data/cat is a file, and cannot be a folder"):
        writer.add([plain(label=0)])
    writer.commit()
    assert tree(tmp_path / "victim") == {}


def test_a_stricter_file_system_costs_the_sample_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import errno

    real = builtins.open

    def strict(file: Any, *rest: Any, **more: Any) -> Any:
        if "é" in str(file):
            raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ))
        return real(file, *rest, **more)

    writer = opened(tmp_path, "folder", InputStream(shards=[]))
    monkeypatch.setattr(builtins, "open", strict)
    with pytest.raises(Unwritable, match="the file system takes no such name"):
        writer.add([plain(key="a"), plain(key="é")])
    writer.add([plain(key="a")])
    assert [path for path in writer.commit() if path.startswith("data/")] == ["data/a.png"]


@given(
    st.dictionaries(
        texts | st.sampled_from(["reason.json", "0.x_", "1.x_", "x?", "x*", "7.png", "x" * 300]), st.binary()
    )
)
def test_the_quarantine_takes_members_of_any_name(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("q")
    bad = Rejected(key="k", reason="r", kind="refused", origin="o", members=members)
    write_quarantine([bad, bad], store=DiskStore(root, root), parts=root, name="shard")
    for _, kept in read_quarantine(root / "quarantine" / "shard.tar"):
        assert list(kept.values()) == list(members.values())


@pytest.mark.parametrize("format", WRITERS)
def test_an_abort_on_a_full_disk_leaves_nothing(tmp_path: Path, format: str) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from pipeline.media.records import Sample
from pipeline.streams import open_writer
from pipeline.streams.contract import InputStream
from pipeline.streams.store import DiskStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
root = Path(sys.argv[2])
writer = open_writer(
    sys.argv[1], store=DiskStore(root, root / ".parts"), parts=root / ".parts", name="s", stream=InputStream(shards=[])
)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    for i in range(300):
        writer.add([Sample(key=str(i), image=bytes([i % 256]) + i.to_bytes(2, "big") * 100_000, image_ext="png")])
except OSError:
    writer.abort()
    print("aborted")
"""
    folders(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", script, format, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "aborted\n", done.stderr
    assert tree(tmp_path) == {}
