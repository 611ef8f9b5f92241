"""Hugging Face data sets in: local files of every kind, a set that is built on the spot, and what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import DatasetDict, Features, Image, Value, load_dataset

from pipeline.errors import UserError
from pipeline.streams.contract import InputStream
from pipeline.streams.hub import HubInput
from pipeline.streams.parquet import ParquetWriter
from tests.streams.hub_set import FEATURES, made, row
from tests.streams.made import disk, everything, folders, picture, samples, write


def raw(path: Path) -> list[dict[str, Any]]:
    """What is stored, nothing decoded."""
    return pq.read_table(path).to_pylist()


def test_one_parquet_file_is_one_shard_with_original_bytes(parquet: Path) -> None:
    stream = HubInput(path=str(parquet)).open()
    assert [shard.name for shard in stream.shards] == ["part-0", "part-1"]
    assert stream.label_names == ("cat", "dog")
    assert (stream.image_column, stream.label_column) == ("img", "label")
    assert stream.features == FEATURES
    read = samples(stream.shards[1])
    assert [s.key for s in read] == [f"part-1-{i:06d}" for i in range(5)]
    assert [s.image for s in read] == [row(i)["img"]["bytes"] for i in range(5)]
    assert [s.image_ext for s in read] == ["png", "jpg", "png", "jpg", "png"]
    assert [s.label for s in read] == [0, 1, None, 1, 0]
    assert read[3].members["name.txt"] == "näme.3".encode()
    assert read[4].origin == "part-1:row 4"


@pytest.mark.parametrize(
    "options",
    [
        {"path": "FOLDER"},
        {"path": "FOLDER/part-*.parquet"},
        {"path": "parquet", "data_files": "FOLDER/*.parquet"},
        {"path": "parquet", "data_files": ["FOLDER/part-0.parquet", "FOLDER/part-1.parquet"], "split": "odd"},
        {"path": "parquet", "data_dir": "FOLDER"},
    ],
)
def test_the_ways_to_name_local_files_agree(parquet: Path, options: dict[str, Any]) -> None:
    text = json.dumps(options).replace("FOLDER", str(parquet))
    read = everything(HubInput.model_validate_json(text).open())
    assert [s.key for s in read] == [f"part-{p}-{i:06d}" for p in range(2) for i in range(5)]


def test_arrow_files_and_saved_sets_read_like_parquet(tmp_path: Path, parquet: Path) -> None:
    expected = [s.members for s in samples(HubInput(path=str(parquet / "part-0.parquet")).open().shards[0])]
    made().save_to_disk(tmp_path / "one")
    DatasetDict({"train": made(1), "test": made()}).save_to_disk(tmp_path / "many")
    (file,) = (tmp_path / "one").glob("*.arrow")
    for source in (
        HubInput(path=str(file)),
        HubInput(path=str(tmp_path / "one")),
        HubInput(path=str(tmp_path / "many"), split="test"),
    ):
        stream = source.open()
        assert stream.features == FEATURES
        assert [s.members for s in everything(stream)] == expected
    with pytest.raises(UserError, match=r"no split 'val' \(splits: train, test\)"):
        HubInput(path=str(tmp_path / "many"), split="val").open()


def test_through_our_writer_a_set_comes_back_equal(tmp_path: Path, parquet: Path) -> None:
    stream = HubInput(path=str(parquet)).open()
    data, parts = folders(tmp_path)
    for shard in stream.shards:
        write(
            ParquetWriter(store=disk(data), parts=parts, name=shard.name, stream=stream),
            samples(shard),
        )
    back = load_dataset("parquet", data_files=str(data / "*.parquet"), split="train", cache_dir=tmp_path / "c")
    assert back.features == Features({**FEATURES, "key": Value("string"), "provenance": Value("string")})
    for written, original in zip(raw(data / "part-0.parquet"), raw(parquet / "part-0.parquet"), strict=True):
        assert written.pop("key").startswith("part-0-")
        assert written.pop("provenance") is None
        assert written["img"].pop("path").startswith("part-0-")
        original["img"].pop("path")
        assert repr(written) == repr(original)  # repr: nan equals itself
    assert back[0]["img"].size == (7, 5)
    assert back[1]["name"] is None


def test_imagefolder_is_read_through_datasets(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_bytes(picture(len(name)))
    for options in ({"path": str(tmp_path / "set")}, {"path": "imagefolder", "data_dir": str(tmp_path / "set")}):
        stream = HubInput.model_validate(options).open()
        assert stream.label_names == ("cat", "dog")
        (shard,) = stream.shards
        assert [(s.label, s.image) for s in samples(shard)] == [(0, picture(9)), (1, picture(9))]
        assert samples(shard)[0].key == f"{shard.name}-000000"
    before = shard.fingerprint(), shard.content_hash()
    assert before == (shard.fingerprint(), shard.content_hash())
    (tmp_path / "set" / "dog" / "2.png").write_bytes(picture(3))
    assert shard.fingerprint() != before[0]
    assert shard.content_hash() != before[1]


def test_masks_named_by_metadata_are_read_too(tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "m.png")):
        (tmp_path / name).write_bytes(picture(i))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "mask_file_name": "m.png"}\n')
    (sample,) = everything(HubInput(path="imagefolder", data_dir=str(tmp_path)).open())
    assert sample.image == picture(0)
    mask = json.loads(sample.members["mask.json"])
    assert mask["path"] == "m.png"
    import base64

    assert base64.b64decode(mask["bytes"]) == picture(1)


def test_shards_of_files_know_their_content(parquet: Path, tmp_path: Path) -> None:
    import hashlib

    copy = tmp_path / "a.parquet"
    copy.write_bytes((parquet / "part-0.parquet").read_bytes())
    (shard,) = HubInput(path=str(copy)).open().shards
    assert shard.content_hash() == hashlib.sha256(copy.read_bytes()).hexdigest()
    before = shard.fingerprint()
    copy.write_bytes((parquet / "part-1.parquet").read_bytes())
    assert shard.fingerprint() != before


def test_without_an_image_column_one_must_be_named(tmp_path: Path) -> None:
    table = pa.table({"jpg": [picture(1)], "label": ["x"], "n": [3]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column of type Image; name one of jpg, label, n"):
        HubInput(path=str(tmp_path)).open()
    stream = HubInput(path=str(tmp_path), image="jpg", label="n").open()
    (sample,) = everything(stream)
    assert (sample.image, sample.label, sample.members["label.txt"]) == (picture(1), 3, b"x")
    assert stream.features["jpg"] == Image()
    assert HubInput(path=str(tmp_path), image="jpg").open().label_column is None


def test_shards_travel_to_other_processes(parquet: Path) -> None:
    import pickle

    stream = HubInput(path=str(parquet)).open()
    copy: InputStream = pickle.loads(pickle.dumps(stream))
    assert [s.key for s in samples(copy.shards[0])] == [s.key for s in samples(stream.shards[0])]
