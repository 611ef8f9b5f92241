"""Utility measured on faces that were moved, turned and lost by known amounts."""

import numpy as np
import pytest

from pipeline.anonymity.attacks import utility
from pipeline.anonymity.attacks.photos import Pairing
from pipeline.anonymity.attacks.utility import (
    ATTRIBUTES,
    attribute_agreement,
    detector_recall,
    pose_error,
    psnr,
    task_accuracy,
)
from tests.anonymity import face_tables

EYES = np.array([[40.0, 30.0], [24.0, 30.0]], np.float32)
"""16 pixels apart, on a level."""


def pair(before: np.ndarray, after: np.ndarray) -> Pairing:
    vectors = face_tables.unit(np.ones((len(before), 3)))
    tables = [face_tables.table({"toy": vectors}, [None] * len(e), eyes=e.astype(np.float32)) for e in (before, after)]
    return Pairing(originals=tables[0], released=tables[1], source=np.arange(len(before)))


def test_a_shift_is_counted_in_inter_ocular_distances() -> None:
    before = np.stack([EYES, EYES, EYES])
    after = before + np.array([[0, 0], [4, 0], [0, 8]])[:, None]
    found = pose_error(pair(before, after))
    assert found is not None
    assert found.eyes.mean == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert found.roll.mean == found.scale.mean == 0


@pytest.mark.parametrize("degrees", [0, 10, -30, 175])
@pytest.mark.parametrize("start", [0, 170])
def test_roll_is_the_angle_between_eye_lines(degrees: float, start: float) -> None:
    def turned(angle: float) -> np.ndarray:
        a = np.radians(angle)
        turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        return (EYES - EYES.mean(0)) @ turn + EYES.mean(0)

    found = pose_error(pair(turned(start)[None], 1.5 * turned(start + degrees)[None]))
    assert found is not None
    assert found.roll.mean == pytest.approx(abs(degrees), abs=1e-3)  # also across ±180°
    assert found.scale.mean == pytest.approx(np.log(1.5), abs=1e-5)


def test_faces_without_eyes_or_without_a_partner_are_left_out() -> None:
    before, after = np.stack([EYES] * 3), np.stack([EYES] * 3)
    before[0] = np.nan
    pairs = pair(before, after)
    released = face_tables.table({"toy": pairs.released.embeddings["toy"][:2]}, [None] * 3, image=np.array([0, 1]),
                                 eyes=after[:2])  # fmt: skip
    found = pose_error(Pairing(originals=pairs.originals, released=released, source=np.array([0, 2, 1])))
    assert found is not None
    assert found.faces == 1
    assert pose_error(Pairing(originals=pairs.originals, released=released, source=np.full(3, -1))) is None


def test_recall_counts_images_not_faces() -> None:
    vectors = face_tables.unit(np.ones((5, 3)))
    originals = face_tables.table({"toy": vectors}, [None] * 4, image=np.array([0, 1, 1, 2, 2]))
    released = face_tables.table({"toy": vectors[:4]}, [None] * 5, image=np.array([0, 1, 2, 2]))
    found = detector_recall(Pairing(originals=originals, released=released, source=np.array([0, 1, 2, 2, -1])))
    assert found.images == 5
    assert found.with_face == 3 / 5
    assert found.with_face_if_source_has == 3 / 4
    assert found.same_count == 2 / 4


def test_psnr_by_hand() -> None:
    a = np.full((4, 5, 3), 10, np.uint8)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 5) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(a + 5, a) == psnr(a, a + 5)  # uint8 would wrap around


@pytest.mark.parametrize("steps", [100, pytest.param(utility.STEPS, marks=pytest.mark.slow)])
def test_a_label_that_shows_is_learnt_and_one_that_does_not_is_not(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "STEPS", steps)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 240)
    images = [np.clip(rng.normal(90 + 60 * one, 40, (16, 16, 3)), 0, 255).astype(np.uint8) for one in label]
    shown = task_accuracy(images[:160], label[:160], images[160:], label[160:])  # type: ignore[arg-type]
    assert shown is not None
    assert shown.accuracy > 0.95
    mixed = task_accuracy(images[:160], rng.permutation(label[:160]), images[160:], label[160:])  # type: ignore[arg-type]
    assert mixed is not None
    assert mixed.accuracy < 0.8
    assert task_accuracy(images[:9], [1] * 9, images, label) is None  # type: ignore[arg-type]


def test_absent_attribute_models_are_stated(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    found = attribute_agreement([], [])
    assert set(found) == set(ATTRIBUTES)
    assert found["gender"] == "not measured: gender_model_weights.onnx is absent"
