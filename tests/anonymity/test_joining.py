"""Faces of many shards as one mapped table: equal to the table in memory, built once, whole, private, and looked up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.anonymity.faces import columns, joining
from pipeline.anonymity.faces.columns import Column, mapped, writing
from pipeline.anonymity.faces.index import Index
from pipeline.anonymity.faces.joining import JOINED, already_joined, join
from pipeline.anonymity.faces.table import FaceTable, joined, save_table
from pipeline.anonymity.faces.texts import Names, Texts, packed
from tests.anonymity.face_tables import table, unit

PEOPLE = (["ä", None, "b"], ["b", "b", None, "\udc80"], [], [None, "ä"])
"""Who is in each image, by shard."""
COUNTS = ([1, 0, 2], [1, 1, 0, 3], [], [1, 1])
"""Faces of each image."""


def shards() -> list[FaceTable]:
    made = []
    for number, (who, faces) in enumerate(zip(PEOPLE, COUNTS, strict=True)):
        image = np.repeat(np.arange(len(who)), np.array(faces, dtype=int))
        rng = np.random.default_rng(number)
        size = 0 if number == 2 else 5  # a recogniser that has seen no face does not know how long embeddings are
        vectors = {name: unit(rng.normal(size=(len(image), size))) for name in ("one", "two")}
        made.append(table(vectors, who, prefix=f"shard-{number}/kéy", image=image))
    return made


def kept(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    folder.mkdir(exist_ok=True)
    files = [(folder / f"{number}.safetensors", {"shard": number}) for number in range(len(PEOPLE))]
    for part, (file, made_of) in zip(shards(), files, strict=True):
        save_table(part, file, made_of)
    return files


def same(a: FaceTable, b: FaceTable) -> None:
    assert (tuple(a.keys), tuple(a.identities)) == (tuple(b.keys), tuple(b.identities))
    assert list(a.embeddings) == list(b.embeddings)
    pairs = [(getattr(a, name), getattr(b, name)) for name in ("image", "box", "eyes", "phash")]
    pairs += [(a.embeddings[name], b.embeddings[name]) for name in a.embeddings]
    for left, right in pairs:
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        np.testing.assert_array_equal(left, right)
    for name, column in a.index.columns().items():
        np.testing.assert_array_equal(column, b.index.columns()[name], err_msg=name)


def test_the_mapped_table_is_the_joined_one(tmp_path: Path) -> None:
    files, whole = kept(tmp_path), joined(shards())
    assert already_joined(files, tmp_path) is None
    found = join(files, tmp_path)
    same(found, whole)
    assert found.keys == whole.keys == tuple(found.keys)
    assert found.keys[-2:] == whole.keys[-2:]
    assert found.identities == whole.identities
    assert found.identities[:3] == whole.identities[:3]
    assert os.stat(tmp_path / JOINED).st_mode & 0o077 == 0
    for column in (found.embeddings["one"], found.image, found.phash):
        assert column.ctypes.data % columns.ALIGNED == 0


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = kept(tmp_path)
    join(files, tmp_path)
    monkeypatch.setattr(joining, "load_table", lambda *_: pytest.fail("a shard was read again"))
    join(files, tmp_path)


@pytest.mark.parametrize("spoil", ["shard", "cut", "grown", "noise", "empty", "fewer"])
def test_what_does_not_fit_is_built_anew(tmp_path: Path, spoil: str) -> None:
    files = kept(tmp_path)
    before = join(files, tmp_path)
    file = tmp_path / JOINED
    content = file.read_bytes()
    if spoil == "shard":
        save_table(shards()[0], *files[0])
    elif spoil == "fewer":
        files = files[1:]
    else:
        damaged = {"cut": content[:-1], "grown": content + b"\0", "noise": b"\xff" * 200, "empty": b""}[spoil]
        os.replace(_written(tmp_path / "other", damaged), file)
    assert already_joined(files, tmp_path) is None
    same(join(files, tmp_path), joined(shards()[1:] if spoil == "fewer" else shards()))
    assert tuple(before.keys) == joined(shards()).keys  # whoever has mapped the old file keeps it


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_a_broken_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = kept(tmp_path)
    monkeypatch.setattr(Index, "made", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        join(files, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [file.name for file, _ in files]


def test_keys_and_people_are_found(tmp_path: Path) -> None:
    found = join(kept(tmp_path), tmp_path)
    for number, key in enumerate(found.keys):
        assert found.index.find(found.keys, key) == number
    assert found.index.find(found.keys, "shard-0/key-0") is None
    assert found.index.repeated(found.keys) == 0
    owners = [found.identities[i] for i in found.image]
    for number, who in enumerate(found.identities):
        rows = found.index.faces_of(int(found.index.person[number]))
        if who is None:
            assert rows is None
            assert found.index.person[number] == -1 - number
        else:
            assert rows is not None
            assert rows.tolist() == [row for row, owner in enumerate(owners) if owner == who]


@pytest.mark.parametrize("bits", [64, 1])
def test_repeated_keys_are_counted(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one bit of a hash, most keys share theirs with others."""
    from pipeline.anonymity.faces import index

    whole = index.hash_of
    monkeypatch.setattr(index, "hash_of", lambda key: np.uint64(int(whole(key)) % 2**bits))
    keys = ("a", "b", "a", "c", "d", "a", "b", "e")
    found = Index.of(keys, [None] * len(keys), np.zeros(0, np.int64))
    assert found.repeated(keys) == 3
    assert [found.find(keys, key) for key in "abcde"] == [0, 1, 3, 4, 7]


def test_texts_are_read_one_by_one_or_all() -> None:
    texts = ("", "é", "", "\udcff x", "z" * 300, "")
    column = Texts(*packed(texts))
    assert list(column) == [column[i] for i in range(len(texts))] == list(texts)
    assert column[-2] == texts[-2]
    assert column == texts
    assert column != texts[1:]
    with pytest.raises(IndexError):
        column[len(texts)]
    assert list(Names(np.array([1, -3, 3]), column)) == ["é", None, "\udcff x"]
    assert list(Texts(*packed(()))) == []


def test_columns_keep_their_types_and_places(tmp_path: Path) -> None:
    file, rng = tmp_path / "columns", np.random.default_rng(0)
    values = {
        "a": rng.integers(0, 9, 7), "b": rng.normal(size=(3, 2, 2)).astype(np.float32), "none": np.zeros((0, 4)),
        "c": np.frombuffer(b"text", np.uint8),
    }  # fmt: skip
    with writing(file, {name: Column(v.dtype.str, v.shape) for name, v in values.items()}, "this") as part:
        for name, column in reversed(values.items()):
            for row in range(len(column)):
                part.put(name, row, column[row : row + 1])
    found = mapped(file, "this")
    assert found is not None
    for name, column in values.items():
        assert (found[name].dtype, found[name].shape) == (column.dtype, column.shape)
        np.testing.assert_array_equal(found[name], column)
    found["a"][0] = 77  # stays in memory
    again = mapped(file, "this")
    assert again is not None
    assert again["a"][0] == values["a"][0]
    assert mapped(file, "that") is None
