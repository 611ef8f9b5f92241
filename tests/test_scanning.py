"""Scanning: every decodable image once, finished shards never again, nothing stale, and no name in a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import pipeline.anonymity.faces.scanning
from pipeline.anonymity.faces.detect import Face
from pipeline.anonymity.faces.scanning import image_stream, scan
from pipeline.anonymity.faces.table import FaceTable, load_table
from pipeline.errors import UserError
from pipeline.media.pixels import decode
from pipeline.media.rules import PixelRules
from pipeline.streams.shards import WebDatasetInput
from tests import builders

SIZE = (6, 4)
SECRET = "Zoë Nightingale"


class Finder:
    """One face in each image whose first pixel is even, seen by `images`."""

    detector, weights = "eye", "e1"

    def __init__(self, *, breaks_at: int | None = None) -> None:
        self.images, self.breaks_at = list[np.ndarray](), breaks_at

    def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        self.images += images
        if self.breaks_at is not None and len(self.images) >= self.breaks_at:
            raise UserError("a worker died")
        return [[self._face(image)] if image[0, 0, 0] % 2 == 0 else [] for image in images]

    def _face(self, image: np.ndarray) -> Face:
        return Face(box=(0, 0, 4, 6), eyes=None, confidence=1.0, crop=image)


class Judge:
    name, weights = "judge", "j1"

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([crop.reshape(-1)[:8] + 1.0 for crop in crops], np.float32).reshape(len(crops), 8)


def person(number: int) -> str:
    return f"{SECRET} {number % 3}"


def shard(path: Path, first: int, count: int) -> Path:
    members = list[tuple[str, bytes]]()
    for i in range(first, first + count):
        members.append((f"p{i % 3}_{i:03d}.png", builders.picture(i, (9, 7))))
        members.append((f"p{i % 3}_{i:03d}.json", json.dumps({"who": person(i), "n": i}).encode()))
    return builders.tar(path, members)


@pytest.fixture
def source(tmp_path: Path) -> WebDatasetInput:
    shard(tmp_path / "in" / "a.tar", 0, 7)
    shard(tmp_path / "in" / "b.tar", 7, 5)
    return WebDatasetInput(urls=(f"{tmp_path}/in/*.tar",))


def scanned(source: WebDatasetInput, finder: Finder, folder: Path | None = None, **changes: object) -> FaceTable:
    settings = {"size": SIZE, "rules": PixelRules(), "identity": "json:who", "recognisers": [Judge()], **changes}
    return scan(source, finder=finder, folder=folder, **settings)  # type: ignore[arg-type]


def test_every_image_is_read_once_as_jobs_decode_it(source: WebDatasetInput) -> None:
    finder, done = Finder(), list[int]()
    table = scanned(source, finder, rules=PixelRules(fit="crop"), on_images=done.append)
    assert table.keys == tuple(f"{'a' if i < 7 else 'b'}/p{i % 3}_{i:03d}" for i in range(12))
    assert table.identities == tuple(person(i) for i in range(12))
    for i, image in enumerate(finder.images):
        np.testing.assert_array_equal(image, decode(builders.picture(i, (9, 7)), SIZE, PixelRules(fit="crop"))[0])
    expected = [i for i, image in enumerate(finder.images) if image[0, 0, 0] % 2 == 0]
    assert table.image.tolist() == expected
    assert 0 < len(expected) < 12
    assert sum(done) == 12


def test_batches_make_no_difference(source: WebDatasetInput, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scanned(source, Finder())
    monkeypatch.setattr(pipeline.anonymity.faces.scanning, "BATCH", 2)
    parts = scanned(source, Finder())
    assert parts.keys == whole.keys
    np.testing.assert_array_equal(parts.image, whole.image)
    np.testing.assert_array_equal(parts.embeddings["judge"], whole.embeddings["judge"])


def test_finished_shards_are_not_scanned_again(source: WebDatasetInput, tmp_path: Path) -> None:
    folder, again, done = tmp_path / "faces", Finder(), list[int]()
    with pytest.raises(UserError, match="a worker died"):
        scanned(source, Finder(breaks_at=12), folder)
    assert [file.name for file in folder.iterdir()] == ["a.safetensors"]
    table = scanned(source, again, folder, on_images=done.append)
    assert len(again.images) == 5
    assert sum(done) == 12
    fresh = scanned(source, Finder())
    assert (table.keys, table.identities) == (fresh.keys, fresh.identities)
    np.testing.assert_array_equal(table.image, fresh.image)
    np.testing.assert_array_equal(table.embeddings["judge"], fresh.embeddings["judge"])
    third = Finder()
    scanned(source, third, folder)
    assert not third.images


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (4, 6)},
        {"rules": PixelRules(fit="pad")},
        {"identity": None},
        {"recognisers": [SimpleNamespace(name="judge", weights="j2", embed=Judge().embed)]},
        {"recognisers": [Judge(), SimpleNamespace(name="second", weights="", embed=Judge().embed)]},
        {"detector": "ear"},
        {"detector_weights": "e2"},
        {"image": "png"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_whatever_changes_the_faces_makes_a_new_scan(
    source: WebDatasetInput, tmp_path: Path, changes: dict[str, object]
) -> None:
    scanned(source, Finder(), tmp_path / "faces")
    again = Finder()
    again.detector = str(changes.pop("detector", again.detector))
    again.weights = str(changes.pop("detector_weights", again.weights))
    source = source.model_copy(update={"image": changes.pop("image", None)})
    scanned(source, again, tmp_path / "faces", **changes)
    assert len(again.images) == 12


def test_a_changed_shard_is_scanned_again_and_no_other(source: WebDatasetInput, tmp_path: Path) -> None:
    folder, again = tmp_path / "faces", Finder()
    scanned(source, Finder(), folder)
    shard(tmp_path / "in" / "b.tar", 20, 3)
    table = scanned(source, again, folder)
    assert len(again.images) == 3
    assert len(table.keys) == 10


def test_faces_of_a_shard_that_is_gone_are_forgotten(source: WebDatasetInput, tmp_path: Path) -> None:
    scanned(source, Finder(), tmp_path / "faces")
    assert len(list((tmp_path / "faces").glob("*.safetensors"))) == 2
    one = WebDatasetInput(urls=(f"{tmp_path}/in/a.tar",))
    scanned(one, Finder(), tmp_path / "faces")
    assert [file.stem for file in (tmp_path / "faces").glob("*.safetensors")] == ["a"]


def test_a_damaged_cache_is_scanned_again(source: WebDatasetInput, tmp_path: Path) -> None:
    folder, again = tmp_path / "faces", Finder()
    scanned(source, Finder(), folder)
    file = folder / "a.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    scanned(source, again, folder)
    assert len(again.images) == 7
    assert len(load_table(file).keys) == 7


def test_what_cannot_be_decoded_is_left_out(source: WebDatasetInput, tmp_path: Path) -> None:
    builders.tar(tmp_path / "in" / "c.tar", [("x_1.png", b"nothing"), ("y_2.png", builders.picture(40))])
    assert scanned(source, Finder()).keys[-2:] == ("b/p2_011", "c/y_2")


def test_a_shard_without_images_or_faces_is_no_problem(source: WebDatasetInput, tmp_path: Path) -> None:
    builders.tar(tmp_path / "in" / "c.tar", [("x_1.png", b"nothing")])
    assert len(scanned(source, Finder(), tmp_path / "faces").keys) == 12
    with pytest.raises(UserError, match="no image of it can be read"):
        scanned(WebDatasetInput(urls=(f"{tmp_path}/in/c.tar",)), Finder())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, None),
        ("json:who", SECRET + " 1"),
        ("json:n", "4"),
        ("json:absent", None),
        (r"key:(p\d)_\d+", "p1"),
        (r"key:(p\d)_", None),  # the whole key must match
        (r"key:(z?)p\d_\d+", None),  # nobody's name is empty
    ],
)
def test_who_is_in_an_image(source: WebDatasetInput, spec: str | None, expected: str | None) -> None:
    assert [who for key, who, _ in image_stream(source, SIZE, PixelRules(), spec) if key == "a/p1_004"] == [expected]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"who": null}', b'{"who": true}', b'{"who": [1]}', b"3"])
def test_a_member_without_a_name_is_of_nobody(tmp_path: Path, content: bytes) -> None:
    builders.tar(tmp_path / "a.tar", [("k.png", builders.picture(1)), ("k.json", content)])
    stream = image_stream(WebDatasetInput(urls=(str(tmp_path / "a.tar"),)), None, PixelRules(), "json:who")
    assert [(key, who, image.shape) for key, who, image in stream] == [("a/k", None, (8, 8, 3))]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("who", "allowed are json:FIELD and key:REGEX"),
        ("json:", "allowed are json:FIELD and key:REGEX"),
        ("exif:artist", "allowed are json:FIELD and key:REGEX"),
        ("key:(", "not a valid regular expression"),
        ("key:abc", "has no group"),
    ],
)
def test_another_place_of_names_is_one_sentence(source: WebDatasetInput, spec: str, words: str) -> None:
    with pytest.raises(UserError, match=f"identity: .*{words}"):
        scanned(source, Finder(), identity=spec)


def test_no_name_reaches_a_message(source: WebDatasetInput, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "faces"
    with pytest.raises(UserError) as broken:
        scanned(source, Finder(breaks_at=1), folder)
    scanned(source, Finder(), folder)
    with pytest.raises(UserError) as changed:
        load_table(folder / "a.safetensors", {"identity": "json:n"})
    told = "".join(capfd.readouterr()) + str(broken.value) + str(changed.value)
    assert SECRET not in told
