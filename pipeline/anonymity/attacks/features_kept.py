"""What stays of a face besides who it is: where its features lie, how the head is turned, age, gender, expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.attacks.figures import AgreementFigures, Agreements, LandmarkFigures, Middle
from pipeline.anonymity.faces.ported import converted
from pipeline.anonymity.faces.recognise import crops_for

if TYPE_CHECKING:
    from pipeline.anonymity.faces.detect import Face

Points = NDArray[np.float64]
DROP, DEPTH = 0.72, 0.35
"""How far the base of the nose lies below the eyes of a mean head, and before them, in distances between the eyes."""


def landmark_error(released: Sequence[Face], sources: Sequence[Face]) -> LandmarkFigures | None:
    """How far the five landmarks of faces have moved, and how far the heads have turned, pair by pair.

    Pairs of which a face has no landmarks are left out; None where none is left. Points are in pixels of images of the
    same size.
    """
    pairs = [(a.landmarks, b.landmarks) for a, b in zip(released, sources, strict=True) if a.landmarks and b.landmarks]
    if not pairs:
        return None
    ours, theirs = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    moved = np.linalg.norm(ours - theirs, axis=2).mean(1) / np.linalg.norm(_across(theirs), axis=1)
    turned = np.abs(head_pose(ours) - head_pose(theirs))
    turned[:, 2] = np.abs((turned[:, 2] + 180) % 360 - 180)
    yaw, pitch, roll = (_middle(values) for values in turned.T)
    return LandmarkFigures(faces=len(pairs), error=_middle(moved), yaw=yaw, pitch=pitch, roll=roll)


def head_pose(landmarks: Points) -> Points:
    """Yaw, pitch and roll in degrees, `[N, 3]`, from the five landmarks `[N, 5, 2]` of faces (see `Face.landmarks`).

    They are those of a head of mean proportions seen from afar (weak perspective). Turned by yaw θ, the base of its
    nose lies `DEPTH` tan θ eye distances to the side; nodded by pitch φ, `DROP` cos φ + `DEPTH` sin φ below. An upright
    head that looks into the camera has three zeros; signs are those of the image: to the right, down, clockwise. Where
    a head does both, the two are some degrees off.
    """
    across = _across(landmarks)
    distance = np.linalg.norm(across, axis=1)
    axis = across / distance[:, None]
    nose = landmarks[:, 4] - landmarks[:, :4].mean(1)
    aside = (nose * axis).sum(1) / distance
    below = (nose[:, 1] * axis[:, 0] - nose[:, 0] * axis[:, 1]) / distance
    yaw = np.arctan(aside / DEPTH)
    reach = np.clip(below * np.cos(yaw) / np.hypot(DROP, DEPTH), -1, 1)
    pitch = np.arctan2(DEPTH, DROP) - np.arccos(reach)
    return np.degrees(np.stack([yaw, pitch, np.arctan2(axis[:, 1], axis[:, 0])], axis=1))


def attributes_kept(released: Sequence[Face], sources: Sequence[Face]) -> Agreements:
    """Measures on how many pairs of faces the networks of age and gender (faceres) and of expression (emotion) agree.

    `chance` is the agreement of answers that are dealt out at random among the sources. Networks that the user has not
    converted are left out, and so are pairs of which a face has no square.
    """
    sound = [(a, b) for a, b in zip(released, sources, strict=True) if a.square is not None and b.square is not None]
    found: Agreements = {}
    if not sound:
        return found
    sides = tuple(zip(*sound, strict=True))
    if converted("faceres"):
        from pipeline.anonymity.faces.faceres import FaceRes

        judge = FaceRes.load()
        ours, theirs = (judge.age_and_gender(crops_for("faceres", faces)) for faces in sides)
        found["age"] = AgreementFigures(
            faces=len(sound), mean_difference=float(np.abs(ours.age - theirs.age).mean()),
            chance=float(np.abs(theirs.age[:, None] - theirs.age).mean()),
        )  # fmt: skip
        found["gender"] = _agreement(ours.male.astype(np.int64), theirs.male.astype(np.int64))
    if converted("emotion"):
        from pipeline.anonymity.faces.expression import ExpressionJudge

        expressions = ExpressionJudge.load()
        found["emotion"] = _agreement(*(expressions.judge([face.crop for face in faces]) for faces in sides))
    return found


def _agreement(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> AgreementFigures:
    shares = np.bincount(theirs) / len(theirs)
    return AgreementFigures(
        faces=len(ours), share=float((ours == theirs).mean()), chance=float((shares**2).sum())
    )  # fmt: skip


def _across(landmarks: Points) -> Points:
    """From the centre of the eye on the image's left to that of the other: `[N, 2]`."""
    across = landmarks[:, :2].mean(1) - landmarks[:, 2:4].mean(1)
    return np.where(across[:, :1] < 0, -across, across)


def _middle(values: NDArray[np.float64]) -> Middle:
    return Middle(mean=float(values.mean()), median=float(np.median(values)))
