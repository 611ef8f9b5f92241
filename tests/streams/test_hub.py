"""Hugging Face data sets in: local files of every kind, a set that is built on the spot, and what is broken."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset

from pipeline.errors import UserError
from pipeline.records import Rejected, Sample
from pipeline.streams.contract import InputStream
from pipeline.streams.hub import HubInput
from pipeline.streams.parquet import ParquetWriter
from pipeline.streams.rows import Columns, read_rows
from tests.streams.made import everything, folders, picture, rejected, samples, write

FEATURES = Features(
    {
        "name": Value("string"),
        "img": Image(),
        "label": ClassLabel(names=["cat", "dog"]),
        "score": Value("float32"),
        "boxes": List(List(Value("int32"))),
        "when": Value("timestamp[us, tz=UTC]"),
        "mask": Image(),
        "raw": Value("binary"),
        "fine": ClassLabel(names=["x", "y"]),
    }
)


def row(i: int) -> dict[str, Any]:
    return {
        "name": None if i == 1 else f"näme.{i}",
        "img": {"bytes": picture(i, "jpeg" if i % 2 else "png"), "path": None},
        "label": None if i == 2 else i % 2,
        "score": float("nan") if i == 3 else i / 8,
        "boxes": [[1, 2], []] if i else None,
        "when": datetime.datetime(2020, 1, 1 + i, tzinfo=datetime.UTC),
        "mask": None if i == 0 else {"bytes": picture(100 + i), "path": "m.png"},
        "raw": b"" if i == 0 else b"\xff",
        "fine": 1,
    }


def made(rows: int = 5) -> Dataset:
    return Dataset.from_list([row(i) for i in range(rows)], features=FEATURES)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of five rows, in row groups of two."""
    folder = tmp_path_factory.mktemp("parquet")
    for i in range(2):
        made().to_parquet(folder / f"part-{i}.parquet", batch_size=2)
    return folder


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
        write(ParquetWriter(data=data, parts=parts, name=shard.name, stream=stream), samples(shard))
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


def test_keys_from_a_column_must_be_there_safe_and_unique(tmp_path: Path) -> None:
    rows = [row(i) | {"name": n} for i, n in enumerate(["a", "a", None, "../x", "", "d/b"])]
    Dataset.from_list(rows, features=FEATURES).to_parquet(tmp_path / "k.parquet")
    (shard,) = HubInput(path=str(tmp_path / "k.parquet"), key="name").open().shards
    items = list(shard.read())
    assert [item.key for item in items if isinstance(item, Sample)] == ["a", "d/b"]
    assert [bad.kind for bad in rejected(items)] == ["refused"] * 4
    assert "duplicate" in rejected(items)[0].reason
    assert rejected(items)[0].members["image"] == row(1)["img"]["bytes"]


def test_rows_without_an_image_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(picture(7))
    images = [
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
        {"bytes": None, "path": str(tmp_path)},
        {"bytes": None, "path": str(tmp_path / "there.png")},
    ]
    table = pa.Table.from_pylist([row(0) | {"img": i} for i in images], schema=FEATURES.arrow_schema)
    pq.write_table(table, tmp_path / "n.parquet")
    (shard,) = HubInput(path=str(tmp_path / "n.parquet")).open().shards
    items = list(shard.read())
    assert [type(item) for item in items] == [Rejected] * 4 + [Sample]
    assert [bad.kind for bad in rejected(items)] == ["undecodable"] * 4
    assert [bad.reason for bad in rejected(items)][:2] == ["column 'img' is null"] * 2
    assert "is missing" in rejected(items)[2].reason
    assert rejected(items)[0].members["raw.bin"] == b""
    assert items[4].image == picture(7)  # type: ignore[union-attr]


def test_a_remote_set_may_not_name_local_files(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(7))
    table = pa.Table.from_pylist(
        [row(0) | {"img": {"bytes": None, "path": str(tmp_path / "secret.png")}}], schema=FEATURES.arrow_schema
    )
    columns = Columns(features=FEATURES, image="img", label="label", key=None)
    (bad,) = read_rows([table], "s", columns, local=False)
    assert isinstance(bad, Rejected)
    assert "may not name the local file" in bad.reason
    (good,) = read_rows([table], "s", columns, local=True)
    assert isinstance(good, Sample)


def test_a_parquet_file_cut_short_is_one_rejected_row(tmp_path: Path, parquet: Path) -> None:
    whole = (parquet / "part-0.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.parquet").write_bytes(whole)
    (tmp_path / "c.parquet").write_bytes(b"")
    broken, good, empty = HubInput(path=str(tmp_path)).open().shards
    for shard in (broken, empty):
        (bad,) = shard.read()
        assert isinstance(bad, Rejected)
        assert bad.kind == "undecodable"
        assert "damaged: no rows from 0 on" in bad.reason
    assert len(samples(good)) == 5


def test_rows_before_the_damage_come_through(tmp_path: Path, parquet: Path) -> None:
    whole = bytearray((parquet / "part-0.parquet").read_bytes())
    group = pq.ParquetFile(parquet / "part-0.parquet").metadata.row_group(1)
    start = min(group.column(c).dictionary_page_offset or group.column(c).data_page_offset for c in range(3))
    whole[start : start + 40] = bytes(40)
    (tmp_path / "a.parquet").write_bytes(whole)
    (shard,) = HubInput(path=str(tmp_path / "a.parquet")).open().shards
    items = list(shard.read())
    assert [type(item) for item in items] == [Sample, Sample, Rejected]
    assert "no rows from 2 on" in items[2].reason  # type: ignore[union-attr]


def test_a_file_with_other_columns_is_rejected_not_fatal(tmp_path: Path) -> None:
    made(1).to_parquet(tmp_path / "a.parquet")
    made(1).rename_column("raw", "other").to_parquet(tmp_path / "b.parquet")
    first, second = HubInput(path=str(tmp_path)).open().shards
    assert len(samples(first)) == 1
    assert [type(item) for item in second.read()] == [Rejected]


def test_a_shard_that_vanished_raises(tmp_path: Path, parquet: Path) -> None:
    (tmp_path / "a.parquet").write_bytes((parquet / "part-0.parquet").read_bytes())
    (shard,) = HubInput(path=str(tmp_path)).open().shards
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(FileNotFoundError):
        list(shard.read())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "/nowhere/at/all"}, r"input\.path: '/nowhere/at/all' does not exist"),
        ({"path": "/nowhere/x.parquet"}, r"input\.path: data set '/nowhere/x.parquet' cannot be opened: .*"),
        ({"path": "FOLDER", "split": "test"}, r"input\.split: .* no split 'test' \(splits: train\)"),
        ({"path": "FOLDER", "image": "photo"}, r"input\.image: no column 'photo' \(columns: name, img, .*\)"),
        ({"path": "FOLDER", "label": "name"}, r"input\.label: column 'name' is .*string.*, not a ClassLabel"),
        ({"path": "FOLDER", "key": "id"}, r"input\.key: no column 'id'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(parquet: Path, options: dict[str, Any], message: str) -> None:
    text = json.dumps(options).replace("FOLDER", str(parquet))
    with pytest.raises(UserError, match=message) as caught:
        HubInput.model_validate_json(text).open()
    assert "\n" not in str(caught.value)


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


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^input\.path: data set 'no/such' cannot be opened: .*$"):
        HubInput(path="no/such").open()


def test_shards_travel_to_other_processes(parquet: Path) -> None:
    import pickle

    stream = HubInput(path=str(parquet)).open()
    copy: InputStream = pickle.loads(pickle.dumps(stream))
    assert [s.key for s in samples(copy.shards[0])] == [s.key for s in samples(stream.shards[0])]
