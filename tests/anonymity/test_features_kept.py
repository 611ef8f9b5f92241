"""Landmarks, head pose and attributes: angles against projected heads, errors against moved points."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.attacks.features_kept import DEPTH, DROP, attributes_kept, head_pose, landmark_error
from pipeline.anonymity.faces.detect import Face, FaceFinder
from tests.anonymity.graphs import needs_faceres
from tests.anonymity.portraits import needs_dlib, needs_lfw, people

HEAD = np.array([[0.7, 0, 0], [0.3, 0, 0], [-0.7, 0, 0], [-0.3, 0, 0], [0, DROP, DEPTH]])
"""Corners of the eyes and the nose of a mean head, in eye distances: right, down, towards the camera."""


def projected(yaw: float, pitch: float, roll: float, size: float = 30.0) -> np.ndarray:
    """The landmarks of a head that nods, turns and tilts, seen from afar: rotations written out as matrices."""
    a, b, c = np.radians([yaw, pitch, roll])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    tilt = np.array([[np.cos(c), -np.sin(c)], [np.sin(c), np.cos(c)]])
    return np.asarray((HEAD @ nod.T @ turn.T)[:, :2] @ tilt.T * size + 50)


def face(landmarks: Any) -> Face:
    points = None if landmarks is None else tuple((float(x), float(y)) for x, y in landmarks)
    return Face(box=(0, 0, 9, 9), eyes=None, confidence=1, crop=np.zeros((9, 9, 3), np.uint8), landmarks=points)


@given(st.floats(-40, 40), st.floats(-25, 25), st.floats(-60, 60), st.floats(5, 300))
def test_angles_of_a_head_that_turns_or_nods_are_found(yaw: float, pitch: float, roll: float, size: float) -> None:
    for angles in ((yaw, 0, roll), (0, pitch, roll)):
        assert head_pose(projected(*angles, size)[None])[0] == pytest.approx(angles, abs=1e-6)


@given(st.floats(-20, 20), st.floats(-8, 8))
def test_both_at_once_are_found_within_some_degrees(yaw: float, pitch: float) -> None:
    assert np.abs(head_pose(projected(yaw, pitch, 0)[None])[0] - [yaw, pitch, 0]).max() < 10


def test_moved_points_are_counted_in_eye_distances_of_the_source() -> None:
    there = projected(10, 5, 20)
    found = landmark_error(
        [face(there + np.array([3, 4])), face(None), face(there)], [face(there), face(there), face(None)]
    )
    assert found is not None
    eyes = np.linalg.norm(there[:2].mean(0) - there[2:4].mean(0))
    assert found.faces == 1
    assert found.error.mean == pytest.approx(5 / eyes)
    assert max(found.yaw.mean, found.pitch.mean, found.roll.mean) < 1e-9
    turned = landmark_error([face(projected(30, 0, -170))], [face(projected(10, 0, 170))])
    assert turned is not None
    assert turned.yaw.mean == pytest.approx(20, abs=1e-6)
    assert landmark_error([face(None)], [face(there)]) is None
    assert landmark_error([], []) is None


@needs_faceres
@needs_dlib
@needs_lfw
def test_a_photograph_keeps_what_it_has_and_others_do_not() -> None:
    with FaceFinder(workers=0) as finder:
        faces = [found[0] for found in finder.find(people(8, 128)) if found]
    assert all(one.landmarks is not None and len(one.landmarks) == 5 for one in faces)
    for one in faces:
        left, top, width, height = one.box
        points = np.array(one.landmarks)
        assert (points > [left - width / 4, top - height / 4]).all()
        assert (points < [left + 1.25 * width, top + 1.25 * height]).all()
        assert np.abs(head_pose(points[None])).max() < 60
    same, others = attributes_kept(faces, faces), attributes_kept(faces, [*faces[1:], faces[0]])
    assert same["gender"].share == 1.0  # type: ignore[union-attr]
    assert same["age"].mean_difference == 0.0  # type: ignore[union-attr]
    assert others["age"].mean_difference > 1  # type: ignore[union-attr, operator]


def test_without_converted_networks_nothing_is_said(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attributes_kept([face(None)], [face(None)]) == {}  # no squares
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    one = replace(face(None), square=np.zeros((224, 224, 3), np.uint8))
    assert attributes_kept([one], [one]) == {}
