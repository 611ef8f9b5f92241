"""Parquet out: `datasets` reads it as a stranger would, every member is kept, shards share one schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image, Value, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.records import Sample
from pipeline.streams import parquet
from pipeline.streams.contract import InputStream, Unwritable
from pipeline.streams.hub import HubInput
from pipeline.streams.parquet import ParquetWriter
from tests.streams.made import disk, everything, folders, picture, write
from tests.streams.test_columns import KINDS

TAR = InputStream(shards=[], verbatim_names=True)
NAMED = InputStream(shards=[], label_names=("cat", "dog"))


def sample(i: int, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "key": f"d/k{i}",
        "image": picture(i),
        "image_ext": "png",
        "label": i % 2,
        "members": {"cls": b"%d" % (i % 2), "txt": b"caption", "doppel.json": b'{"t": 0.5}'},
    }
    return Sample(**{**fields, **changes})


def written(root: Path, stream: InputStream, items: list[Sample], name: str = "p") -> Path:
    data, parts = folders(root)
    (file,) = write(ParquetWriter(store=disk(data), parts=parts, name=name, stream=stream), items)
    assert not list(parts.iterdir())
    return data / file


def test_datasets_decodes_images_and_names_classes(tmp_path: Path) -> None:
    path = written(tmp_path, NAMED, [sample(0), sample(1), sample(2, label=None)])
    data = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "c"))
    assert data.features["image"] == Image()
    assert data.features["label"] == ClassLabel(names=["cat", "dog"])
    assert data["label"][:] == [0, 1, None]
    assert data[1]["image"].size == (7, 5)
    assert data[1]["image"].getpixel((0, 0)) == (1, 7, 254)
    assert data[0]["txt"] == "caption"
    assert json.loads(data[0]["provenance"]) == {"t": 0.5}
    assert data[0]["members"] == []
    assert data[2]["members"] == [{"name": "cls", "content": b"0"}]


def restored(row: dict[str, Any]) -> Sample:
    """A sample out of a row of the plain layout, by what its documentation says."""
    members = {m["name"]: m["content"] for m in row["members"]}
    members |= {name: row[name].encode() for name in ("txt", "json") if row[name] is not None}
    if row["provenance"] is not None:
        members["doppel.json"] = row["provenance"].encode()
    if row["label"] is not None and "cls" not in members:
        members["cls"] = str(row["label"]).encode()
    ext = row["image"]["path"].removeprefix(row["key"].rpartition("/")[2] + ".")
    return Sample(key=row["key"], image=row["image"]["bytes"], image_ext=ext, label=row["label"], members=members)


members = st.dictionaries(
    st.sampled_from(["cls", "txt", "json", "seg.png", "caption.txt", "npy"]), st.binary(max_size=30)
)
tar_samples = st.builds(
    Sample, key=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), image=st.binary(max_size=50),
    image_ext=st.sampled_from(["jpg", "left.png"]), label=st.none() | st.integers(-(2**63), 2**63 - 1), members=members,
)  # fmt: skip


@given(items=st.lists(tar_samples, max_size=4, unique_by=lambda s: s.key))
def test_no_member_is_lost_whatever_it_holds(tmp_path_factory: pytest.TempPathFactory, items: list[Sample]) -> None:
    path = written(tmp_path_factory.mktemp("p"), TAR, items)
    expected = [
        s if s.label is None else Sample(**{**vars(s), "members": {"cls": b"%d" % s.label, **s.members}}) for s in items
    ]
    assert [restored(row) for row in pq.read_table(path).to_pylist()] == expected


def test_shards_with_other_members_share_the_schema(tmp_path: Path) -> None:
    items = [[sample(1)], [sample(2, members={"npy": b"\xff", "json": b"{}"})], []]
    schemas = [pq.read_schema(written(tmp_path, TAR, part, name=f"p{i}")) for i, part in enumerate(items)]
    assert all(s.equals(schemas[0], check_metadata=True) for s in schemas)
    data = load_dataset(
        "parquet", data_files=str(tmp_path / "data" / "*"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert len(data) == 2


def test_row_groups_are_bounded_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def groups(name: str, count: int) -> list[int]:
        metadata = pq.ParquetFile(written(tmp_path, TAR, [sample(i) for i in range(count)], name=name)).metadata
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    assert groups("rows", 205) == [100, 100, 5]
    with pq.ParquetFile(tmp_path / "data/rows.parquet") as file:
        row = file.read_row_group(2).slice(0, 1).combine_chunks().nbytes
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2.5 * row)
    assert groups("bytes", 7) == [3, 3, 1]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (written(tmp_path / n, TAR, [sample(i) for i in range(120)]) for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_nothing_is_left_after_an_abort(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    writer = ParquetWriter(store=disk(data), parts=parts, name="p", stream=TAR)
    writer.add([sample(1)])
    writer.abort()
    assert not data.exists()
    assert not list(parts.iterdir())


def test_a_label_without_a_name_is_told(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    writer = ParquetWriter(store=disk(data), parts=parts, name="p", stream=NAMED)
    with pytest.raises(Unwritable, match="label 2 is not among the 2 names"):
        writer.add([sample(1, label=2)])


def test_our_own_output_can_be_the_input_again(tmp_path: Path) -> None:
    path = written(tmp_path / "1", NAMED, [sample(i) for i in range(3)])
    stream = HubInput(path=str(path), key="key").open()
    items = everything(stream)
    assert [(s.key, s.label) for s in items] == [(f"d/k{i}", i % 2) for i in range(3)]
    again = written(tmp_path / "2", stream, items)
    features = Features.from_arrow_schema(pq.read_schema(again))
    assert list(features)[-2:] == ["doppel_key", "doppel_provenance"]
    assert features["doppel_key"] == Value("string")
    for before, after in zip(pq.read_table(path).to_pylist(), pq.read_table(again).to_pylist(), strict=True):
        assert after.pop("doppel_key") == before["key"]
        after.pop("doppel_provenance")
        assert after == before


def test_a_member_that_has_no_column_is_not_dropped_silently(tmp_path: Path) -> None:
    path = written(tmp_path / "1", NAMED, [sample(0)])
    stream = HubInput(path=str(path)).open()
    data, parts = folders(tmp_path / "2")
    writer = ParquetWriter(store=disk(data), parts=parts, name="p", stream=stream)
    with pytest.raises(Unwritable, match=r"\['npy'\] have no column"):
        writer.add([sample(0, members={"npy": b""})])


def test_columns_whose_members_were_stripped_are_null(tmp_path: Path) -> None:
    path = written(tmp_path / "1", NAMED, [sample(0)])
    stream = HubInput(path=str(path)).open()
    (row,) = pq.read_table(written(tmp_path / "2", stream, [sample(0, members={})])).to_pylist()
    assert (row["txt"], row["key"], row["members"], row["label"]) == (None, None, None, 0)


@given(data=st.data())
def test_members_that_no_column_can_hold_cost_the_sample_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from([kind for kind, _ in KINDS]))
    features = Features({"image": Image(), "x": kind, "label": ClassLabel(names=["a", "b"])})
    stream = InputStream(
        shards=[], features=features, image_column="image", label_column="label", label_names=("a", "b")
    )
    name = data.draw(st.sampled_from(["x.txt", "x.bin", "x.json", "cls", "image.json"]))
    odd = data.draw(
        st.binary(max_size=5) | st.sampled_from([b"null", b"[[1]]", b'{"x": 3}', b'"\\ud800"', b"1e400", b"9" * 30])
    )
    folder = tmp_path_factory.mktemp("p")
    data_folder, parts = folders(folder)
    writer = ParquetWriter(store=disk(data_folder), parts=parts, name="p", stream=stream)
    good = sample(1, members={"cls": b"1"})
    writer.add([good])
    try:
        writer.add([sample(2, members={name: odd}, label=None)])
        expected = 3
    except Unwritable:
        expected = 2
    writer.add([sample(3, members={"cls": b"1"})])
    writer.commit()
    table = pq.read_table(data_folder / "p.parquet")
    assert table.num_rows == expected
    table.validate(full=True)
