"""Hugging Face data sets that are broken, hostile or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.streams.bounds import Bounds
from pipeline.streams.hub import HubInput
from pipeline.streams.own_files import OwnFiles
from pipeline.streams.rows import Columns, RowReader
from tests.streams.hub_set import FEATURES, made, row
from tests.streams.made import lay, picture, rejected, samples


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

    def read(base: str) -> Sample | Rejected:
        (item,) = RowReader(name="s", columns=columns, own=OwnFiles.of([base]), bounds=Bounds()).read([table])
        return item

    bad = read("https://example.com/set")
    assert isinstance(bad, Rejected)
    assert bad.kind == "refused"
    assert "lies outside the data set (https://example.com/set/)" in bad.reason
    assert isinstance(read(str(tmp_path)), Sample)


def test_a_parquet_file_cut_short_is_one_damaged_place(tmp_path: Path, parquet: Path) -> None:
    whole = (parquet / "part-0.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.parquet").write_bytes(whole)
    (tmp_path / "c.parquet").write_bytes(b"")
    broken, good, empty = HubInput(path=str(tmp_path)).open().shards
    for shard in (broken, empty):
        (bad,) = shard.read()
        assert isinstance(bad, Rejected)
        assert bad.kind == "damaged"
        assert "the file is damaged: the rows from 0 on are lost" in bad.reason
    assert len(samples(good)) == 5


def test_a_damaged_row_group_is_told_and_the_others_are_read(tmp_path: Path, parquet: Path) -> None:
    whole = bytearray((parquet / "part-0.parquet").read_bytes())
    group = pq.ParquetFile(parquet / "part-0.parquet").metadata.row_group(1)
    start = min(group.column(c).dictionary_page_offset or group.column(c).data_page_offset for c in range(3))
    whole[start : start + 40] = bytes(40)
    (tmp_path / "part-0.parquet").write_bytes(whole)
    (shard,) = HubInput(path=str(tmp_path / "part-0.parquet")).open().shards
    items = list(shard.read())
    assert [type(item) for item in items] == [Sample, Sample, Rejected, Sample]
    lost = rejected(items)[0]
    assert (lost.kind, lost.key, lost.members) == ("damaged", "part-0-000002", {})
    assert "row group 1 is damaged: 2 rows from 2 on are lost" in lost.reason
    (original,) = HubInput(path=str(parquet / "part-0.parquet")).open().shards
    assert items[3] == samples(original)[4]


def test_a_file_with_other_columns_is_rejected_not_fatal(tmp_path: Path) -> None:
    made(1).to_parquet(tmp_path / "a.parquet")
    made(1).rename_column("raw", "other").to_parquet(tmp_path / "b.parquet")
    first, second = HubInput(path=str(tmp_path)).open().shards
    assert len(samples(first)) == 1
    (lost,) = rejected(second.read())
    assert lost.kind == "damaged"
    assert "1 rows from 0 on are lost (its columns do not fit the data set" in lost.reason


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
        ({"path": "FOLDER", "label": "img"}, r"input\.label: column 'img' is Image.*; numbers, names or lists"),
        ({"path": "FOLDER", "key": "id"}, r"input\.key: no column 'id'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(parquet: Path, options: dict[str, Any], message: str) -> None:
    text = json.dumps(options).replace("FOLDER", str(parquet))
    with pytest.raises(UserError, match=message) as caught:
        HubInput.model_validate_json(text).open()
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^input\.path: data set 'no/such' cannot be opened: .*$"):
        HubInput(path="no/such").open()


def test_an_image_whose_mask_is_missing_is_kept_in_the_quarantine(tmp_path: Path) -> None:
    gone = row(0) | {"mask": {"bytes": None, "path": str(tmp_path / "gone.png")}}
    pq.write_table(pa.Table.from_pylist([gone], schema=FEATURES.arrow_schema), tmp_path / "m.parquet")
    (shard,) = HubInput(path=str(tmp_path / "m.parquet")).open().shards
    (bad,) = rejected(shard.read())
    assert "column 'mask'" in bad.reason
    assert bad.members["image"] == row(0)["img"]["bytes"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"set.py": b"raise SystemExit('this ran')"}, "Dataset scripts are no longer supported, but found set.py"),
        ({"state.json": b""}, r"state\.json "),
        ({"state.json": b'{"_data_files": [{"filena'}, r"state\.json "),
        ({"state.json": b"{}"}, r"/state\.json names no data files"),
        ({"state.json": b'{"_data_files": []}'}, r"/state\.json names no data files"),
        ({"state.json": b'{"_data_files": [{"filename": 3}]}'}, r"/state\.json names no data files"),
        ({"state.json": b'{"_data_files": [{"filename": "gone.arrow"}]}'}, "Unable to find .*"),
        ({"state.json": b"[" * 100_000}, r"state\.json "),
        ({"dataset_dict.json": b""}, r"dataset_dict\.json "),
        ({"dataset_dict.json": b'{"splits": {"train": 1}}'}, r"/dataset_dict\.json names no splits"),
        ({"dataset_dict.json": b"\xff"}, r"dataset_dict\.json "),
        ({"README.md": b"---\nconfigs: 3\n---\n", "x.parquet": b""}, "cannot be opened: "),
        ({"README.md": b"---\na: [\n---\n", "x.parquet": b""}, "cannot be opened: "),
        (
            {"README.md": b"---\ndataset_info: {features: [{name: 3, dtype: nix}]}\n---\n", "x.parquet": b""},
            "cannot be opened: ",
        ),
        ({"README.md": b"\xff\xfe", "x.parquet": b""}, "cannot be opened: "),
        ({"dataset_infos.json": b"{", "x.parquet": b""}, "cannot be opened: "),
        ({".huggingface.yaml": b"a: [", "x.parquet": b""}, "cannot be opened: "),
        ({"x.csv": b""}, "cannot be opened: "),
        ({"metadata.jsonl": b"{", "a.png": b""}, "cannot be opened: "),
        ({"x.h5": b"no"}, "cannot be opened: "),
        ({}, "cannot be opened: "),
    ],
)
def test_whatever_a_folder_says_of_itself_is_told_in_one_sentence(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    lay(tmp_path / "set", files)
    (tmp_path / "set").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message) as told:
        HubInput(path=str(tmp_path / "set")).open()
    assert "\n" not in str(told.value)
    assert str(tmp_path / "set") in str(told.value)


def test_code_of_a_data_set_never_runs(tmp_path: Path) -> None:
    lay(tmp_path / "set", {"set.py": b"import pathlib; pathlib.Path('ran').touch()"})
    for options in ({"path": str(tmp_path / "set")}, {"path": str(tmp_path / "set" / "set.py")}):
        with pytest.raises(UserError, match="no longer supported"):
            HubInput.model_validate(options).open()


KINDS = Features(
    {
        "image": Image(),
        "raw": Value("binary"),
        "file": Value("string"),
        "stored": {"path": Value("string"), "bytes": Value("binary")},
        "pixels": List(List(Value("uint8"))),
        "box": {"x": Value("int32")},
        "n": Value("int64"),
        "f": Value("float32"),
        "class": ClassLabel(names=["a"]),
    }
)


@pytest.mark.parametrize("column", ["pixels", "box", "n", "f", "class"])
def test_a_column_that_holds_no_image_is_told(tmp_path: Path, column: str) -> None:
    pq.write_table(KINDS.arrow_schema.empty_table(), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=f"^input.image: column '{column}' is .*; images, their bytes or .* expected$"):
        HubInput(path=str(tmp_path), image=column).open()
    for fine in ("image", "raw", "file", "stored"):
        assert HubInput(path=str(tmp_path), image=fine).open().image_column == fine


@pytest.mark.parametrize("column", ["image", "raw", "stored", "pixels", "box", "f", "class"])
def test_a_column_that_holds_no_key_is_told(tmp_path: Path, column: str) -> None:
    pq.write_table(KINDS.arrow_schema.empty_table(), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=f"^input.key: column '{column}' is .*; text or an integer is expected$"):
        HubInput(path=str(tmp_path), key=column).open()
    for fine in ("file", "n"):
        assert HubInput(path=str(tmp_path), key=fine).open().shards


EXTREMES = [-(2**63), -(2**62), -(2**40), 2**40, 2**53, 2**62, 2**63 - 1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_that_python_has_not_costs_its_row_alone(tmp_path: Path, unit: str) -> None:
    for kind in (pa.timestamp(unit), pa.timestamp(unit, tz="UTC"), pa.duration(unit), pa.date32()):
        small = kind.bit_width == 32
        values = [0, *([2**31 - 1, -(2**31)] if small else EXTREMES), 0]
        times = pa.array(values, pa.int32() if small else pa.int64()).view(kind)
        table = pa.table({"image": [picture(i) for i in range(len(values))], "t": times})
        with pa.ipc.new_stream(tmp_path / "x.arrow", table.schema) as out:
            out.write_table(table)
        (shard,) = HubInput(path=str(tmp_path / "x.arrow"), image="image").open().shards
        first, *items, last = shard.read()
        assert isinstance(first, Sample)
        assert isinstance(last, Sample)
        assert len(items) == len(values) - 2
        for i, bad in enumerate(items, start=1):
            if isinstance(bad, Rejected):
                assert (bad.kind, bad.members) == ("undecodable", {"image": picture(i)})
                assert "the row cannot be read (" in bad.reason


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"[]", b"null", b'{"info": 3}', b'{"info": {"features": 3}}', b'{"info": {"features": {"x": {}}}}',
     b'{"info": {"features": {"image": {"_type": "Nix"}}}}', b'{"info": {"features": {"image": {"_type": 3}}}}',
     b'{"info": {"features": {"gone": {"dtype": "nix", "_type": "Value"}}}}', b"[" * 100_000],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_what_a_file_says_of_its_columns_is_believed_or_told(tmp_path: Path, said: bytes, suffix: str) -> None:
    table = pa.table({"image": [picture(0)]}).replace_schema_metadata({b"huggingface": said})
    file = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, file)
    else:
        with pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    try:
        (shard,) = HubInput(path=str(file), image="image").open().shards
    except UserError as told:
        assert "\n" not in str(told)  # noqa: PT017
    else:
        assert list(shard.read())
