"""`doppel calibrate-faces`: the right images, a certificate for each recogniser and size, and a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline.commands.calibrate_faces
from pipeline.anonymity.faces.detect import Face
from pipeline.anonymity.gate.calibration import load_certificate
from pipeline.commands.calibrate_faces import CalibrateConfig, calibrate_faces, choose
from pipeline.config import load_config, validate
from pipeline.errors import UserError
from tests import builders

COUNTS = (4, 1, 6, 2, 0, 9, 3)
"""Images of person 0, 1, …; the last people's are in the second shard, too."""


class Finder:
    detector, weights = "eye", "e1"

    def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[Face(box=(0, 0, 4, 6), eyes=None, confidence=1.0, crop=image)] for image in images]


class Judge:
    """Tells people apart by the shade of their images; `noise` makes it worse."""

    weights, threshold = "j1", 0.1

    def __init__(self, name: str, noise: float) -> None:
        self.name, self.noise, self.sides = name, noise, list[int]()

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        self.sides += [crop.shape[0] for crop in crops]
        angles = np.array([crop.mean() / 60 for crop in crops])
        angles = angles + self.noise * np.random.default_rng(1).standard_normal(len(angles))
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def image(person: int, number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 16, 3), 30 * person + number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a recipe; the last image of each person lies in the second shard."""
    shards: dict[str, list[tuple[str, bytes]]] = {"a": [], "b": []}
    for person, count in enumerate(COUNTS):
        for number in range(count):
            key = f"p{person}-{number}"
            members = [(f"{key}.png", image(person, number)), (f"{key}.json", json.dumps({"who": person}).encode())]
            shards["b" if number == count - 1 else "a"] += members
    for name, members in shards.items():
        builders.tar(tmp_path / f"{name}.tar", [*members, (f"nobody-{name}.png", builders.picture(3))])

    @contextmanager
    def finder(detector: str, *, workers: int) -> Iterator[Finder]:
        assert (detector, workers) == ("eye", 0)
        yield Finder()

    judges = {"keen": Judge("keen", 0.0), "blind": Judge("blind", 9.0)}
    monkeypatch.setattr(pipeline.commands.calibrate_faces, "FaceFinder", finder)
    monkeypatch.setattr(pipeline.commands.calibrate_faces, "load_recogniser", lambda name, *, workers: judges[name])
    return {
        "data": {"format": "webdataset", "urls": f"{tmp_path}/[ab].tar"}, "name": "shades", "identity": "json:who",
        "sizes": [8, 12], "fit": "crop", "detector": "eye", "recognisers": ["keen", "blind"],
        "output": str(tmp_path / "out"), "workers": 0,
    }  # fmt: skip


def config(content: dict[str, Any], **changes: object) -> CalibrateConfig:
    return validate(CalibrateConfig, {**content, **changes}, "recipe")


def names(content: dict[str, Any], **changes: object) -> set[str]:
    return {key for keys in choose(config(content, **changes)).values() for key in keys}


def test_only_people_with_two_images_are_compared(content: dict[str, Any]) -> None:
    assert names(content) == {f"p{i}-{n}" for i, count in enumerate(COUNTS) for n in range(count) if count > 1}


def test_people_and_their_images_can_be_limited(content: dict[str, Any]) -> None:
    assert names(content, people=2, per_person=3) == {"p0-0", "p0-1", "p0-2", "p2-0", "p2-1", "p2-2"}
    assert names(content, limit=3) == {"p0-0", "p0-1", "p0-2"}  # shard a begins with three of them
    assert set(choose(config(content, limit=3))) == {"a"}


def test_each_recogniser_gets_a_certificate_at_each_size(content: dict[str, Any], tmp_path: Path) -> None:
    made = calibrate_faces(config(content))
    assert [(c.recogniser, c.size) for c in made] == [
        (name, (side, side)) for side in (8, 12) for name in ("keen", "blind")
    ]
    for certificate in made:
        file = tmp_path / "out" / f"{certificate.recogniser}_{certificate.size[0]}.json"
        assert load_certificate(file) == certificate
        assert (certificate.people, certificate.images, certificate.faces_found) == (5, 24, 1)
        assert (certificate.genuine, certificate.impostor) == (6 + 15 + 1 + 36 + 3, 276 - 61)
        assert certificate.data == "shades: people with two images or more; fit crop"
    assert [c.certifies for c in made] == [True, False, True, False]
    assert made[0].eer == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "blind_12.json", "blind_8.json", "keen_12.json", "keen_8.json", "roc.png",
    ]  # fmt: skip


def test_images_come_in_the_size_that_is_certified(content: dict[str, Any]) -> None:
    calibrate_faces(config(content))
    judge = pipeline.commands.calibrate_faces.load_recogniser("keen", workers=0)
    assert judge.sides == [8] * 24 + [12] * 24


def test_the_picture_has_a_panel_for_each_recogniser(content: dict[str, Any], tmp_path: Path) -> None:
    widths = []
    for recognisers in (["keen"], ["keen", "blind"]):
        calibrate_faces(config(content, recognisers=recognisers, sizes=[8]))
        with Image.open(tmp_path / "out" / "roc.png") as picture:
            widths.append(picture.width)
            assert np.asarray(picture.convert("L")).std() > 5
    assert widths[1] == 2 * widths[0]


def test_what_was_left_out_is_said(content: dict[str, Any]) -> None:
    (made,) = calibrate_faces(config(content, people=4, per_person=9, recognisers=["keen"], sizes=[8]))
    assert made.data == "shades: the first 4 people with two images or more, up to 9 images each; fit crop"


def test_data_without_two_images_of_anybody_is_one_sentence(content: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="identity 'json:name' finds no two images of one person"):
        calibrate_faces(config(content, identity="json:name"))
    with pytest.raises(UserError, match="at least 50 pairs and 2 people"):
        calibrate_faces(config(content, people=2, per_person=3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": "who"}, "identity: .*allowed are json:FIELD and key:REGEX"),
        ({"sizes": []}, "sizes: "),
        ({"sizes": [0]}, "sizes.0: "),
        ({"recognisers": []}, "recognisers: "),
        ({"per_person": 1}, "per_person: "),
        ({"size": [8]}, "unknown key 'size'.*did you mean 'sizes'"),
    ],
)
def test_a_bad_recipe_is_one_sentence(content: dict[str, Any], changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=f"recipe: {words}"):
        config(content, **changes)


def test_the_shipped_recipe_is_that_of_the_shipped_certificates() -> None:
    recipe = load_config(CalibrateConfig, "calibrate_lfw")
    assert (recipe.sizes, recipe.recognisers, recipe.detector) == ((64, 96, 128, 160), ("Dlib", "dlib-chip"), "dlib")
    for side in recipe.sizes:
        certificate = load_certificate(pipeline.anonymity.gate.calibration.SHIPPED / f"Dlib_{side}.json")
        assert certificate.data == pipeline.commands.calibrate_faces.described(recipe)
        assert certificate.floor == recipe.floor


def test_the_recipe_for_faceres_is_that_of_its_certificates() -> None:
    recipe = load_config(CalibrateConfig, "calibrate_lfw_faceres")
    assert recipe.recognisers == ("faceres",)
    files = sorted(pipeline.anonymity.gate.calibration.SHIPPED.glob("faceres_*.json"))
    assert [int(file.stem.removeprefix("faceres_")) for file in files] == sorted(recipe.sizes, key=str)
    for certificate in map(load_certificate, files):
        assert certificate.data == pipeline.commands.calibrate_faces.described(recipe)
        assert certificate.certifies
