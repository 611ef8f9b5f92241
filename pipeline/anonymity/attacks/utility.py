"""What a release is still good for: faces that can be found, where they look, likeness, labels that can be learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.anonymity.attacks.figures import (
    AgreementFigures,
    Agreements,
    Middle,
    PoseFigures,
    RecallFigures,
    TaskFigures,
)
from pipeline.anonymity.attacks.photos import UNKNOWN, Indices, Pairing

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.media.records import Pixels8

SIDE, STEPS, BATCH = 32, 300, 64
"""The task classifier sees images of this many pixels a side and takes so many optimiser steps of so many images."""
ATTRIBUTES = {
    "age": "age_model_weights.onnx",
    "emotion": "facial_expression_model_weights.onnx",
    "gender": "gender_model_weights.onnx",
    "race": "race_model_single_batch.onnx",
}
"""The attributes that deepface has models for, each with its weight file."""


def detector_recall(pairing: Pairing) -> RecallFigures:
    """The fractions of released images in which a face is found.

    `with_face` is a fraction of all of them. The other two are fractions of those whose source has a face:
    `with_face_if_source_has`, and `same_count` for as many faces as their source has. A fraction of nothing is None.
    """
    made = np.bincount(pairing.released.image, minlength=len(pairing.released.keys))
    known = pairing.source != UNKNOWN
    theirs = np.bincount(pairing.originals.image, minlength=len(pairing.originals.keys))[pairing.source[known]]
    ours, had = made[known], theirs > 0
    return RecallFigures(
        images=len(made),
        with_face=_mean(made > 0),
        with_face_if_source_has=_mean(ours[had] > 0),
        same_count=_mean(ours[had] == theirs[had]),
    )


def pose_error(pairing: Pairing) -> PoseFigures | None:
    """How far the largest face has moved from source to release; None unless eyes are known on both sides.

    `eyes` is the mean distance of both eyes from where they were, in inter-ocular distances of the source; `roll` is
    the angle between the two eye lines, in degrees; `scale` is |ln| of the ratio of the two inter-ocular distances.
    """
    ours, theirs = _eyes(pairing)
    usable = np.isfinite(ours).all(axis=(1, 2)) & np.isfinite(theirs).all(axis=(1, 2))
    lines = [eyes[usable, 0] - eyes[usable, 1] for eyes in (ours, theirs)]
    after, before = (np.linalg.norm(line, axis=1) for line in lines)
    sound = (before > 0) & (after > 0)
    if not sound.any():
        return None
    moved = np.linalg.norm(ours[usable] - theirs[usable], axis=2).mean(axis=1)[sound] / before[sound]
    angles = [np.degrees(np.arctan2(line[sound, 1], line[sound, 0])) for line in lines]
    roll = np.abs((angles[0] - angles[1] + 180) % 360 - 180)
    scale = np.abs(np.log(after[sound] / before[sound]))
    eyes, turn, size = (
        Middle(mean=float(values.mean()), median=float(np.median(values))) for values in (moved, roll, scale)
    )
    return PoseFigures(faces=int(sound.sum()), eyes=eyes, roll=turn, scale=size)


def psnr(a: Pixels8, b: Pixels8) -> float:
    """Peak signal-to-noise ratio of two images of one size in dB; inf where they are equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def task_accuracy(
    released: Sequence[Pixels8],
    labels: Sequence[int],
    real: Sequence[Pixels8],
    real_labels: Sequence[int],
    *,
    seed: int = 0,
) -> TaskFigures | None:
    """Trains a small network on released images and tests it on real ones that were not in the input.

    Images are uint8 `[H, W, 3]` and are seen at 32 × 32. `accuracy` is the fraction of test images that get their
    label; `majority` is that fraction for always answering the commonest label of the release. Returns None where the
    release has fewer than two labels, or there is nothing to test on.
    """
    import torch

    known, target = np.unique(np.asarray(labels, dtype=np.int64), return_inverse=True)
    usable = np.isin(real_labels, known)
    if len(known) < 2 or not usable.any():
        return None
    truth = np.searchsorted(known, np.asarray(real_labels)[usable])
    images = [image for image, use in zip(real, usable, strict=True) if use]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scores = _trained(_small(released), torch.from_numpy(target), len(known), _small(images), seed)
    majority = np.bincount(target).argmax()
    return TaskFigures(
        labels=len(known), trained_on=len(target), tested_on=len(truth),
        accuracy=_mean(scores.argmax(1).numpy() == truth), majority=_mean(truth == majority),
    )  # fmt: skip


def attribute_agreement(released: Sequence[Pixels8], sources: Sequence[Pixels8]) -> Agreements:
    """Measures on how many pairs of face crops deepface's attribute models agree, by attribute.

    `share` is the fraction of the pairs with equal answers; for age, `mean_difference` is in years. Where the weights
    of a model are absent, a sentence says so in its place.
    """
    return {
        name: _agreement(name, released, sources) if present(file) else f"not measured: {file} is absent"
        for name, file in ATTRIBUTES.items()
    }


def present(file: str) -> bool:
    """Whether the weight file lies in deepface's folder."""
    import os
    from pathlib import Path

    home = Path(os.environ.get("DEEPFACE_HOME", str(Path.home())))
    return (home / ".deepface" / "weights" / file).is_file()


def _agreement(name: str, released: Sequence[Pixels8], sources: Sequence[Pixels8]) -> AgreementFigures:
    from deepface import DeepFace

    def judged(crops: Sequence[Pixels8]) -> list[Any]:
        given = [np.ascontiguousarray(crop[..., ::-1]) for crop in crops]
        found = [DeepFace.analyze(crop, actions=[name], detector_backend="skip", silent=True)[0] for crop in given]
        return [one["age"] if name == "age" else one[f"dominant_{name}"] for one in found]

    ours, theirs = judged(released), judged(sources)
    if name == "age":
        return AgreementFigures(faces=len(ours), mean_difference=float(np.mean(np.abs(np.subtract(ours, theirs)))))
    return AgreementFigures(faces=len(ours), share=float(np.mean(np.array(ours) == np.array(theirs))))


def _eyes(pairing: Pairing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`[M, 2, 2]` each: of the largest face of a released image and of its source, where both have one."""
    made, clean = pairing.released, pairing.originals
    rows, faces = made.first_faces(), clean.first_faces()
    sources = pairing.source[made.image[rows]]
    face_of: Indices = np.full(len(clean.keys), -1, dtype=np.int64)
    face_of[clean.image[faces]] = faces
    theirs = np.where(sources == UNKNOWN, -1, face_of[sources]) if len(face_of) else np.full(len(sources), -1)
    both = theirs >= 0
    return made.eyes[rows[both]], clean.eyes[theirs[both]]


def _small(images: Sequence[Pixels8]) -> Tensor:
    """float32 `[N, 3, 32, 32]` in [-1, 1]."""
    import torch

    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _trained(x: Tensor, label: Tensor, classes: int, test: Tensor, seed: int) -> Tensor:
    import torch
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, classes),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator)
        loss = nn.functional.cross_entropy(net(x[rows]), label[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return torch.cat([net.eval()(part) for part in test.split(256)])


def _mean(values: NDArray[np.bool_]) -> float | None:
    return float(np.mean(values)) if len(values) else None
