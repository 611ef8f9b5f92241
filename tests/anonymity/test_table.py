"""Face tables: every face in the row of its image, tables that join and come back from the disk unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.anonymity.faces.detect import Face
from pipeline.anonymity.faces.phash import phash
from pipeline.anonymity.faces.table import FaceTable, joined, load_table, save_table, tabulate
from pipeline.errors import UserError

COUNTS = (2, 0, 1, 3, 0)
"""Faces of image 0, 1, …"""


class Finder:
    """As many faces as the image's first pixel says; each tells its image and place by its box and crop."""

    def find(self, images: list[np.ndarray]) -> list[list[Face]]:
        return [[self._face(image, i) for i in range(image[0, 0, 0])] for image in images]

    def _face(self, image: np.ndarray, place: int) -> Face:
        number = int(image[0, 0, 1])
        crop = np.full((2, 3, 3), 10 * number + place, np.uint8)
        eyes = None if place else ((number + 0.5, 1.0), (number + 2.5, 1.0))
        return Face(box=(number, place, 7.0, 9.0), eyes=eyes, confidence=1.0, crop=crop)


class Level:
    """Direction (3, 4·level) of a crop; with no crops, it doesn't know how long its embeddings are."""

    def __init__(self, name: str, length: int = 2) -> None:
        self.name, self.length, self.calls = name, length, 0

    def embed(self, crops: list[np.ndarray]) -> np.ndarray:
        self.calls += 1
        rows = [[3.0, 4.0 * crop.mean()] + [0.0] * (self.length - 2) for crop in crops]
        return np.array(rows, np.float32).reshape(len(crops), self.length if crops else 0)


def images(first: int = 0, last: int = len(COUNTS)) -> list[np.ndarray]:
    made = [np.random.default_rng(i).integers(0, 256, (5, 4, 3), dtype=np.uint8) for i in range(first, last)]
    for number, image in enumerate(made, start=first):
        image[0, 0, :2] = COUNTS[number], number
    return made


def made(first: int = 0, last: int = len(COUNTS), recognisers: tuple[Level, ...] = ()) -> FaceTable:
    keys, people = [f"k{i}" for i in range(first, last)], ["ä", None, "b", "b", None][first:last]
    return tabulate(images(first, last), keys, people, Finder(), recognisers or (Level("one"), Level("two", 5)))  # type: ignore[arg-type]


def equal(a: FaceTable, b: FaceTable) -> None:
    assert (a.keys, a.identities) == (b.keys, b.identities)
    assert list(a.embeddings) == list(b.embeddings)
    columns = [(getattr(a, name), getattr(b, name)) for name in ("image", "box", "eyes", "phash")]
    for left, right in [*columns, *zip(a.embeddings.values(), b.embeddings.values(), strict=True)]:
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        np.testing.assert_array_equal(left, right)


def test_every_face_has_the_row_of_its_image_and_place() -> None:
    table = made()
    assert table.image.tolist() == [0, 0, 2, 3, 3, 3]
    assert table.box.tolist() == [[i, place, 7, 9] for i, place in zip(table.image, [0, 1, 0, 0, 1, 2], strict=True)]
    assert np.isnan(table.eyes[[1, 4, 5]]).all()
    assert table.eyes[3].tolist() == [[3.5, 1], [5.5, 1]]
    np.testing.assert_array_equal(table.phash, phash(images()))
    levels = 10 * table.image + table.box[:, 1]
    for embedding in table.embeddings.values():
        np.testing.assert_allclose(embedding[:, 1] / embedding[:, 0], 4 * levels / 3, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-6)


def test_rows_of_an_image_are_its_faces() -> None:
    table = made()
    rows = [table.rows_of(i).tolist() for i in range(len(COUNTS))]
    assert rows == [[0, 1], [], [2], [3, 4, 5], []]
    assert table.first_faces().tolist() == [0, 2, 3]


def test_each_recogniser_is_asked_once_for_all_crops() -> None:
    recognisers = (Level("one"), Level("two"))
    made(recognisers=recognisers)
    assert [recogniser.calls for recogniser in recognisers] == [1, 1]


@pytest.mark.parametrize("cuts", [(0, 5), (0, 2, 5), (0, 1, 2, 3, 4, 5), (0, 0, 5, 5), (0, 1, 2, 5)])
def test_joined_parts_are_the_whole(cuts: tuple[int, ...]) -> None:
    parts = [made(first, last) for first, last in pairwise(cuts)]
    equal(joined(parts), made())


def test_only_tables_of_the_same_recognisers_are_joined() -> None:
    with pytest.raises(ValueError, match="same recognisers"):
        joined([made(), made(recognisers=(Level("one"),))])
    with pytest.raises(ValueError, match="same recognisers"):
        joined([])


@pytest.mark.parametrize("span", [(0, 5), (1, 2), (0, 0)])
def test_a_table_comes_back_unchanged(tmp_path: Path, span: tuple[int, int]) -> None:
    table = made(*span)
    file = tmp_path / "t.safetensors"
    save_table(table, file)
    equal(load_table(file), table)
    first = file.read_bytes()
    save_table(load_table(file), file)
    assert file.read_bytes() == first
    assert list(tmp_path.iterdir()) == [file]


def test_hashes_keep_all_64_bits(tmp_path: Path) -> None:
    table = replace(made(), phash=np.array([2**64 - 1, 2**63 + 1, 0, 1, 2**53 + 1], np.uint64))
    save_table(table, tmp_path / "t")
    assert load_table(tmp_path / "t").phash.tolist() == table.phash.tolist()


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t"
    save_table(made(), file, {"fit": "crop", "size": (4, 5)})
    equal(load_table(file, {"size": (4, 5), "fit": "crop"}), made())
    with pytest.raises(UserError, match=r"t: .* something else \(size\)"):
        load_table(file, {"size": (4, 6), "fit": "crop"})
    with pytest.raises(UserError, match=r"\(fit, more\)"):
        load_table(file, {"size": (4, 5), "more": 1})


def test_what_is_no_table_is_one_sentence_without_a_name(tmp_path: Path) -> None:
    whole, file = tmp_path / "whole", tmp_path / "t"
    save_table(made(), whole)
    plain = load_file(whole)
    save_file(plain, tmp_path / "bare")
    save_file({k: v for k, v in plain.items() if k != "eyes"}, tmp_path / "less", {"table": header(whole)})
    save_file({**plain, "phash": plain["phash"][1:]}, tmp_path / "short", {"table": header(whole)})
    save_file({**plain, "embedding.two": plain["embedding.two"][1:]}, tmp_path / "few", {"table": header(whole)})
    others = [(tmp_path / name).read_bytes() for name in ("bare", "less", "short", "few")]
    for content in [b"", b"{}", whole.read_bytes()[:-3], *others]:
        file.write_bytes(content)
        with pytest.raises(UserError, match="t: no face table can be read") as raised:
            load_table(file)
        assert "ä" not in str(raised.value)
    with pytest.raises(UserError, match="no face table"):
        load_table(tmp_path / "absent")


def header(file: Path) -> str:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text: str = json.loads(content[8 : 8 + length])["__metadata__"]["table"]
    return text


def test_lists_of_different_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="5 images, 1 keys"):
        tabulate(images(), ["a"], [None], Finder(), [])  # type: ignore[arg-type]
