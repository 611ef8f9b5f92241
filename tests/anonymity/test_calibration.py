"""Certificates: every pair counted once, against brute force; bound to what they were made with; never lenient."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.anonymity.faces.detect import TRANSFORM
from pipeline.anonymity.faces.metrics import eer
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.faces.weights import PINNED
from pipeline.anonymity.gate import calibration
from pipeline.anonymity.gate.calibration import SHIPPED, Certificate, certify, find_certificate, load_certificate, pairs
from pipeline.errors import UserError

SIZE = (48, 64)


def recogniser(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "judge", "weights": "abc", "threshold": 0.3, **changes})


def finder(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{"detector": "eye", "weights": "def", **changes})


def table(people: int = 8, each: int = 6, *, spread: float = 0.4, strangers: int = 3) -> FaceTable:
    """Photographs around their person's direction; every third has a second, smaller face of nobody's; the last image
    of each person has none at all; some images are of unknown people."""
    rng = np.random.default_rng(1)
    identities = [*(f"person {i % people}" for i in range(people * each)), *[None] * strangers]
    centres = rng.standard_normal((people, 6))
    image, rows = list[int](), list[np.ndarray]()
    for i in range(len(identities)):
        if people * (each - 1) <= i < people * each:
            continue
        image.append(i)
        rows.append(centres[i % people] + spread * rng.standard_normal(6))
        if i % 3 == 0:
            image.append(i)
            rows.append(rng.standard_normal(6))
    vectors = np.array(rows)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return FaceTable(
        keys=tuple(f"k{i}" for i in range(len(identities))), identities=tuple(identities),
        image=np.array(image), box=np.ones((len(image), 4), np.float32),
        eyes=np.full((len(image), 2, 2), np.nan, np.float32), embeddings={"judge": unit},
        phash=np.zeros(len(identities), np.uint64),
    )  # fmt: skip


def made(faces: FaceTable | None = None, **changes: object) -> Certificate:
    return certify(faces or table(), recogniser(**changes), finder(), SIZE, data="made up")  # type: ignore[arg-type]


def brute(faces: FaceTable) -> tuple[np.ndarray, np.ndarray]:
    genuine, impostor = list[float](), list[float]()
    largest = {int(i): row for row, i in reversed(list(enumerate(faces.image)))}
    known = [i for i in largest if faces.identities[i] is not None]
    for a, b in combinations(known, 2):
        left, right = (faces.embeddings["judge"][largest[i]].astype(np.float64) for i in (a, b))
        same = faces.identities[a] == faces.identities[b]
        (genuine if same else impostor).append(1 - left @ right)
    return np.array(genuine), np.array(impostor)


@pytest.mark.parametrize("rows", [3, 512])
def test_every_pair_is_counted_once(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """The largest face of each image, people without a name left out, in blocks and at once."""
    monkeypatch.setattr(calibration, "ROWS", rows)
    genuine, impostor = brute(table())
    found = made()
    assert (found.genuine, found.impostor) == (len(genuine), len(impostor)) == (80, 700)
    assert (found.people, found.images, found.faces_found) == (8, 48, 40 / 48)
    assert found.deepface_tar == np.mean(genuine <= 0.3)
    assert found.deepface_far == np.mean(impostor <= 0.3)
    assert found.closest_impostor == pytest.approx(impostor.min(), abs=1e-6)
    assert found.roc[0][:2] == (0, round(float(np.mean(genuine < impostor.min())), 6)) > (0, 0)
    assert found.eer == pytest.approx(eer(genuine, impostor), abs=1e-6)
    for name, far in calibration.FARS.items():
        assert (
            np.mean(impostor < found.thresholds[name] - 1e-6) <= far < np.mean(impostor < found.thresholds[name] + 1e-6)
        )
        assert found.tar[name] == np.mean(genuine <= found.thresholds[name])


def test_pairs_of_unsorted_people() -> None:
    angles = np.array([0.0, 0.1, 1.0, 1.3])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    genuine, impostor = pairs(vectors, np.array([4, 2, 4, 2]))
    np.testing.assert_allclose(np.sort(genuine), 1 - np.cos([1.0, 1.2]), atol=1e-6)
    np.testing.assert_allclose(np.sort(impostor), 1 - np.cos([0.1, 0.3, 0.9, 1.3]), atol=1e-6)


def test_a_recogniser_without_a_threshold_of_deepface_s() -> None:
    found = made(threshold=None)
    assert found.deepface_threshold is found.deepface_tar is found.deepface_far is None


def test_the_curve_is_short_ascending_and_complete() -> None:
    many = made(table(people=60, each=12, spread=0.8))
    curve = np.array(many.roc)
    assert 20 < len(curve) <= 200
    assert (np.diff(curve, axis=0) >= 0).all()
    assert curve[0, 0] == 0
    assert curve[-1, :2].tolist() == [1, 1]
    for name, far in calibration.FARS.items():
        within = curve[curve[:, 0] <= far]
        assert within[-1, 1] == pytest.approx(many.tar[name], abs=0.03)


@pytest.mark.parametrize(
    ("faces", "counts"),
    [
        (table(people=1, each=30), "406 pairs of images of one person and 1 people"),
        (table(people=8, each=4), "24 pairs of images of one person and 8 people"),
        (table(people=8, each=1), "0 pairs of images of one person and 0 people"),
        (table(people=8, each=0, strangers=9), "0 pairs of images of one person and 0 people"),
    ],
)
def test_too_few_pairs_certify_nothing(faces: FaceTable, counts: str) -> None:
    with pytest.raises(UserError, match=f"{counts} were found; at least 50 pairs and 2 people"):
        made(faces)


def test_who_recognises_too_few_certifies_nothing() -> None:
    blind, keen = made(table(spread=4.0)), made(table(spread=0.1))
    assert blind.tar["1e-2"] < 0.8 <= keen.tar["1e-2"]
    assert (blind.certifies, keen.certifies) == (False, True)
    assert keen.model_copy(update={"tar": {"1e-2": 0.8, "1e-3": 0.0, "1e-4": 0.0}}).certifies
    assert blind.model_copy(update={"floor": blind.tar["1e-2"]}).certifies


@pytest.mark.parametrize(
    ("judge", "eye", "size", "words"),
    [
        ({"name": "other"}, {}, SIZE, "recogniser 'judge' only, found 'other'"),
        ({"weights": "xyz"}, {}, SIZE, "recogniser's weights 'abc' only, found 'xyz'"),
        ({}, {"detector": "ear"}, SIZE, "detector 'eye' only, found 'ear'"),
        ({}, {"weights": "uvw"}, SIZE, "detector's weights 'def' only, found 'uvw'"),
        ({}, {}, (64, 48), "image size '48 × 64' only, found '64 × 48'"),
    ],
)
def test_a_certificate_holds_for_what_it_was_made_with(
    judge: dict[str, str], eye: dict[str, str], size: tuple[int, int], words: str
) -> None:
    certificate = made()
    certificate.bind(recogniser(), finder(), SIZE)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"certificate of judge at 48 × 64: it holds for {words}"):
        certificate.bind(recogniser(**judge), finder(**eye), size)  # type: ignore[arg-type]


def test_a_certificate_of_another_transform_does_not_hold() -> None:
    certificate = made().model_copy(update={"transform": "none"})
    with pytest.raises(UserError, match="transform 'none' only, found"):
        certificate.bind(recogniser(), finder(), SIZE)  # type: ignore[arg-type]


def test_a_certificate_comes_back_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(made().model_dump_json())
    assert load_certificate(file) == made()
    assert "person" not in file.read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"more": 1}, "more: Extra inputs"),
        ({"tar": {"1e-2": 0.9}}, "tar: .*one value for each of 1e-2, 1e-3, 1e-4"),
        ({"eer": None}, "eer: "),
        ({"size": [64]}, "size.1: "),
    ],
)
def test_what_is_no_certificate_is_one_sentence(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({**json.loads(made().model_dump_json()), **changes}))
    with pytest.raises(UserError, match=rf"c\.json: {words}"):
        load_certificate(file)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"eer": NaN}'])
def test_other_files_are_no_certificates(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match=r"c\.json: "):
        load_certificate(tmp_path / "c.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_certificate(tmp_path / "absent.json")


def test_the_one_that_holds_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SHIPPED", tmp_path)
    with pytest.raises(UserError, match=r"judge at 48 × 64 ships with doppel \(shipped: none\)"):
        find_certificate(recogniser(), finder(), SIZE)  # type: ignore[arg-type]
    for i, changes in enumerate(({"size": (9, 9)}, {"detector": "ear"}, {}, {"recogniser": "other"})):
        (tmp_path / f"{i}.json").write_text(made().model_copy(update=changes).model_dump_json())
    assert find_certificate(recogniser(), finder(), SIZE) == made()  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"shipped: judge 9 × 9, judge 48 × 64, judge 48 × 64, other 48 × 64"):
        find_certificate(recogniser(), finder(), (10, 10))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="weights 'abc' only, found 'new'"):
        find_certificate(recogniser(weights="new"), finder(), SIZE)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [64, 96, 128, 160])
def test_dlib_ships_with_certificates(side: int) -> None:
    found = load_certificate(SHIPPED / f"Dlib_{side}.json")
    judge = recogniser(name="Dlib", weights=PINNED["dlib_face_recognition_resnet_model_v1.dat"], threshold=0.07)
    found.bind(judge, finder(detector="dlib", weights=found.detector_weights), (side, side))  # type: ignore[arg-type]
    assert (found.transform, found.deepface_threshold) == (TRANSFORM, 0.07)
    assert found.certifies
    assert found.genuine > 2900
    assert found.impostor > 1_000_000
    assert found.faces_found > 0.98
    assert 0.9 < found.tar["1e-2"] <= 1
    assert 0.4 < found.tar["1e-4"] < found.tar["1e-3"] < found.tar["1e-2"]
    assert found.tar["1e-3"] > 0.7
    assert found.closest_impostor < found.thresholds["1e-4"] < found.thresholds["1e-2"]
    assert (SHIPPED / f"Dlib_{side}.json").stat().st_size < 40_000
