"""Folders out: what lands where, and what must never happen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from datasets import load_dataset

from pipeline.errors import UserError
from pipeline.media.records import Sample
from pipeline.streams.contract import InputStream, Unwritable
from pipeline.streams.folder_writer import FolderWriter
from pipeline.streams.ledger import Ledger
from pipeline.streams.store import DiskStore
from tests.streams.made import disk, folders, picture, tree, write

PLAIN = InputStream(shards=[])

PLAIN = InputStream(shards=[])


def test_imagefolder_reads_what_we_write(tmp_path: Path) -> None:
    stream = InputStream(shards=[], label_names=("zebra", "ape"))
    data, parts = folders(tmp_path)
    items = [
        Sample(key=f"deep/er/{i}", image=picture(i), image_ext="png", label=i % 2, members={"txt": b"t"})
        for i in range(4)
    ]
    write(FolderWriter(store=disk(data), parts=parts, name="f", stream=stream), items)
    assert sorted(tree(data))[:2] == ["ape/deep%2Fer%2F1.png", "ape/deep%2Fer%2F1.txt"]
    loaded = load_dataset("imagefolder", data_dir=str(data), split="train", cache_dir=str(tmp_path / "c"))
    assert loaded.features["label"].names == ["ape", "zebra"]
    found = {row["image"].getpixel((0, 0))[0]: loaded.features["label"].names[row["label"]] for row in loaded}
    assert found == {0: "zebra", 1: "ape", 2: "zebra", 3: "ape"}


def test_provenance_goes_beside_the_data_not_into_it(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    members = {"cls": b"3", "txt": b"t", "doppel.json": b'{"t": 0.5}'}
    items = [
        Sample(key="a", image=b"1", image_ext="png", label=3, members=members),
        Sample(key="b", image=b"2", image_ext="png", members={"cls": b"3"}),
    ]
    hashes = write(FolderWriter(store=disk(data), parts=parts, name="f", stream=PLAIN), items)
    assert set(hashes) == set(tree(data)) == {"3/a.png", "3/a.txt", "b.png", "b.cls"}
    lines = (tmp_path / "provenance" / "f.provenance.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"version": 1, "file": "3/a.png", "sidecars": ["3/a.txt"], "provenance": {"t": 0.5}},
        {"version": 1, "file": "b.png", "sidecars": ["b.cls"], "provenance": None},
    ]


@pytest.mark.parametrize("key", ["../../x", "/x", "a/../../x", ".hidden", "a//./b", "..", ""])
@pytest.mark.parametrize("label", [None, 0])
def test_nothing_is_written_outside_data_or_hidden_in_it(tmp_path: Path, key: str, label: int | None) -> None:
    stream = InputStream(shards=[], label_names=("../evil/.name",))
    data, parts = folders(tmp_path / "out")
    sample = Sample(key=key, image=b"1", image_ext="png", label=label, members={"../../up": b"2"})
    hashes = write(FolderWriter(store=disk(data), parts=parts, name="f", stream=stream), [sample])
    assert set(hashes) == set(tree(data))
    assert len(hashes) == 2
    assert not any(part.startswith(".") for path in hashes for part in path.split("/"))
    assert set(tree(tmp_path)) == {f"out/data/{path}" for path in hashes} | {"out/provenance/f.provenance.jsonl"}


def test_a_shard_replaces_what_a_crash_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, parts = folders(tmp_path)
    items = [Sample(key=f"k{i}", image=b"old", image_ext="png", members={"txt": b"t"}) for i in range(4)]
    real, calls = os.replace, iter(range(100))

    def crash(source: Path, target: Path) -> None:
        if next(calls) == 4:  # the list, two images, a sidecar
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write(FolderWriter(store=disk(data), parts=parts, name="f", stream=PLAIN), items)
    monkeypatch.setattr(os, "replace", real)
    assert 0 < len(tree(data)) < 8
    Ledger(tmp_path).forget("f")
    assert tree(data) == {}
    fresh = [Sample(key=f"k{i}", image=b"new", image_ext="png") for i in (0, 3)]
    write(FolderWriter(store=disk(data), parts=parts, name="f", stream=PLAIN), fresh)
    assert tree(data) == {"k0.png": b"new", "k3.png": b"new"}


@pytest.mark.parametrize(("key", "member"), [("a", "seg.png"), ("a", "parts.zip"), ("metadata", "jsonl")])
def test_members_that_loaders_would_misread_are_refused(tmp_path: Path, key: str, member: str) -> None:
    data, parts = folders(tmp_path)
    writer = FolderWriter(store=disk(data), parts=parts, name="f", stream=PLAIN)
    with pytest.raises(Unwritable, match=r"output\.format must be webdataset or parquet"):
        writer.add([Sample(key=key, image=b"", image_ext="png", members={member: b""})])


def test_classes_that_would_share_a_folder_and_labels_without_a_name_are_told(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    with pytest.raises(UserError, match="two classes would share a folder"):
        FolderWriter(
            store=DiskStore(data.parent, parts),
            parts=parts,
            name="f",
            stream=InputStream(shards=[], label_names=("a/b", "a/b")),
        )
    writer = FolderWriter(store=disk(data), parts=parts, name="f", stream=InputStream(shards=[], label_names=("a",)))
    for label in (1, -2):
        with pytest.raises(Unwritable, match="is not among the 1 names"):
            writer.add([Sample(key="k", image=b"", image_ext="png", label=label)])


@pytest.mark.parametrize(("depth", "fits"), [(100, True), (101, False), (1500, False)])
def test_deep_folders_are_refused_one_by_one(tmp_path: Path, depth: int, fits: bool) -> None:
    data, parts = folders(tmp_path)
    writer = FolderWriter(store=disk(data), parts=parts, name="f", stream=PLAIN)
    deep = Sample(key="a/" * depth + "x", image=b"1", image_ext="png")
    if fits:
        writer.add([deep])
    else:
        with pytest.raises(Unwritable, match=f"{depth} folders deep; 100 are possible"):
            writer.add([deep])
    writer.add([Sample(key="b", image=b"2", image_ext="png")])
    assert len([path for path in writer.commit() if path.endswith("png")]) == 1 + fits
