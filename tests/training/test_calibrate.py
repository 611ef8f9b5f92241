"""Each figure of a calibration against an independent way to it, and the whole on a model with an exact answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn

import training.calibrate.faces
from pipeline.anonymity.faces.detect import Face
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import FlowLevels
from pipeline.errors import UserError
from pipeline.hooks.neighbours import Neighbours
from pipeline.models.gaussian import ClosedForm, GaussianMixture
from pipeline.operators import Boomerang
from training.calibrate.calibrate import generate, sheet
from training.calibrate.config import FacesConfig
from training.calibrate.faces import identity_meter
from training.calibrate.locality import (
    JudgedImages,
    MadeNeighbours,
    class_spread,
    count_right,
    judged,
    measure,
    pick,
    wilson,
)
from training.calibrate.plot import LevelFound
from training.classifier.filtering import FilterConfig
from training.data.images import Images

SIDE, SHADES = 4, (0.6, -0.6)
"""Of the two classes in [-1, 1]."""


class ShadeJudge(nn.Module):
    """Sees whether an image is bright (0) or dark (1); its feature is the mean shade."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[4.0], [-4.0]])

    def features(self, pixels: Tensor) -> Tensor:
        return pixels.mean((1, 2, 3))[:, None]


def shades(count: int, spread: float = 0.05) -> Images:
    """Half bright, half dark, each with noise of its own."""
    labels = torch.arange(count) % 2
    rng = torch.Generator().manual_seed(0)
    pixels = torch.tensor(SHADES)[labels][:, None, None, None] + spread * torch.randn(
        count, 3, SIDE, SIDE, generator=rng
    )
    pixels += spread * torch.randn(count, 1, 1, 1, generator=rng)
    bytes_ = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Images(keys=tuple(f"s{i}" for i in range(count)), pixels=bytes_, labels=labels)


@pytest.fixture(scope="module")
def swept() -> list[LevelFound]:
    """Boomerang on the exact mixture of both shades, without labels, at five levels."""
    images, judge = shades(200), ShadeJudge()
    means = torch.tensor(SHADES)[:, None, None, None].expand(2, 3, SIDE, SIDE)
    model = ClosedForm(
        denoise=GaussianMixture(means=means, weights=(0.5, 0.5), std=0.05), levels=FlowLevels(), size=(SIDE, SIDE)
    )
    before: Any = judged(judge, images.pixels)  # type: ignore[arg-type]
    unit, result = class_spread(before.features, images.labels), list[LevelFound]()
    for level in (0.0, 0.3, 0.7, 0.85, 1.0):
        operator = Boomerang(steps=40, t_boom=LevelRange(low=level, high=level))
        near = Neighbours(operator=operator, model=model, salt=b"s", batch_size=50)
        done = list[int]()
        made = generate(near, images, 2, "cpu", done.append)
        assert done == [50] * 8
        after: Any = judged(judge, made.pixels.flatten(0, 1))  # type: ignore[arg-type]
        result.append(measure(level, made, images, before, after, unit))
    return result


def test_level_zero_is_the_identity(swept: list[LevelFound]) -> None:
    at = swept[0]
    assert at.agreement[1] == at.agreement_of_all == 1
    assert at.distance == at.diversity == at.rmse == at.confidence_drop == 0


def test_a_model_without_labels_forgets_them_as_the_level_rises(swept: list[LevelFound]) -> None:
    agreement = [at.agreement[1] for at in swept]
    assert agreement == sorted(agreement, reverse=True)
    assert agreement[1] == 1  # the other shade is many sigmas away
    assert 0.5 < agreement[3] < 1
    assert agreement[-1] == pytest.approx(0.5, abs=0.08)  # a fresh sample shows either
    for figure in ("distance", "diversity", "rmse"):
        values = [getattr(at, figure) for at in swept]
        assert values == sorted(values), figure


def test_a_fresh_sample_is_of_the_other_shade_or_of_its_own(swept: list[LevelFound]) -> None:
    """Shades of one class differ by N(0, 2s²) among originals; the model's own samples are nearly of the mean shade."""
    at, s = swept[-1], 0.05 * (1 + 1 / (3 * SIDE**2)) ** 0.5
    unit = 2 * s / torch.pi**0.5
    near, far = s * (2 / torch.pi) ** 0.5, SHADES[0] - SHADES[1]
    share = at.agreement_of_all
    assert at.distance == pytest.approx((share * near + (1 - share) * far) / unit, rel=0.1)
    assert at.confidence_drop == pytest.approx(1 - share, abs=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.01, 1))
def test_the_pick_holds_with_all_below_and_cannot_be_raised(shares: list[float], target: float) -> None:
    levels = [(i / 10, share) for i, share in enumerate(shares)]
    found = pick(levels, target)
    held = [level for level, _ in levels if all(s >= target for at, s in levels if at <= level)]
    assert found == (max(held) if held else None)


@given(st.integers(1, 400), st.data())
def test_the_interval_is_wilsons(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    low, share, high = wilson(hits / count, count)
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert low <= share <= high


def test_the_unit_is_the_mean_over_pairs_of_a_class() -> None:
    rng = torch.Generator().manual_seed(1)
    features, labels = torch.randn(11, 3, generator=rng), torch.tensor([0, 1, 0, 2, 1, 1, 0, 1, 0, 1, 1])
    pairs = [float((features[i] - features[j]).norm()) for i, j in combinations(range(11), 2) if labels[i] == labels[j]]
    assert class_spread(features, labels) == pytest.approx(np.mean(pairs))
    for bad in (features[:2], torch.zeros(11, 3)):
        with pytest.raises(UserError, match="no two of one class differ"):
            class_spread(bad, labels[: len(bad)])


def crafted() -> tuple[MadeNeighbours, Images, JudgedImages, JudgedImages]:
    """Three images, two copies: the third is judged wrongly, and one copy of the second is not finite."""
    images = Images(
        keys=("a", "b", "c"), pixels=torch.zeros(3, 3, 2, 2, dtype=torch.uint8), labels=torch.tensor([0, 1, 1])
    )
    before = JudgedImages(features=torch.zeros(3, 2), logits=torch.tensor([[2.0, 0], [0, 2], [2, 0]]))
    pixels = torch.zeros(2, 3, 3, 2, 2, dtype=torch.uint8)
    pixels[0, 0], pixels[1, 1] = 10, 200
    sound = torch.tensor([[True, True, True], [True, False, True]])
    logits = torch.tensor([[2.0, 0], [0, 2], [0, 2], [0, 2], [9, 0], [2, 0]])
    features = torch.tensor([[3.0, 4], [0, 0], [0, 0], [0, 0], [99, 99], [0, 8]])
    return (
        MadeNeighbours(pixels=pixels, sound=sound, rate=7),
        images,
        before,
        JudgedImages(features=features, logits=logits),
    )


def test_what_counts_where() -> None:
    at = measure(0.4, *crafted(), unit=2.0, filtered=FilterConfig(kind="margin", at=0.5))
    sure, unsure = (float(torch.tensor([a, b]).softmax(0)[0]) for a, b in ((2.0, 0), (0.0, 2)))
    assert at.agreement == wilson(2 / 3, 2)  # a twice, once right, b once; two images
    assert at.agreement_of_all == pytest.approx(3 / 5)
    assert at.confidence_drop == pytest.approx((0 + 0 + unsure - sure + sure - unsure + 0) / 5)
    assert at.distance == pytest.approx((5 + 8) / 5 / 2)
    assert at.diversity == pytest.approx((5 + 8) / 2 / 2)
    assert at.rmse == pytest.approx((100 / 5) ** 0.5)
    assert (at.unsound, at.images_per_second) == (1, 7)
    assert at.rejected == pytest.approx(1 / 5)


def test_one_copy_has_no_diversity_and_no_filter_rejects_nothing() -> None:
    made, images, before, after = crafted()
    first = replace(made, pixels=made.pixels[:1], sound=made.sound[:1])
    at = measure(0.4, first, images, before, JudgedImages(features=after.features[:3], logits=after.logits[:3]), 2.0)
    assert at.diversity is None
    assert at.rejected is None
    never_two = replace(made, sound=torch.tensor([[True, True, False], [False, False, True]]))
    assert measure(0.4, never_two, images, before, after, 2.0).diversity is None


def test_what_cannot_be_measured_is_said() -> None:
    made, images, before, after = crafted()
    with pytest.raises(UserError, match="no output is finite"):
        measure(0.4, replace(made, sound=torch.zeros(2, 3).bool()), images, before, after, 1.0)
    with pytest.raises(UserError, match="sees the label in none"):
        measure(0.4, made, images, replace(before, logits=before.logits.flip(1)[[0, 1, 1]]), after, 1.0)


def test_a_judge_that_never_looks_is_refused() -> None:
    def seeing(*labels: int) -> JudgedImages:
        return JudgedImages(features=torch.zeros(5, 1), logits=torch.eye(2)[list(labels)])

    labels = torch.tensor([0, 1, 1, 0, 1])
    with pytest.raises(UserError, match="in 3 of 5 originals, and always saying 1 would be right in 3"):
        count_right(seeing(1, 1, 1, 1, 1), labels)
    assert count_right(seeing(1, 1, 1, 0, 1), labels) == 4
    assert count_right(seeing(1, 1, 1, 1, 1), torch.ones(5).long()) == 5  # of one class alone, nobody can tell


def test_the_sheet_shows_the_classes_alike() -> None:
    labels = torch.tensor([2] * 20 + [0] * 5 + [1])
    pixels = (labels * 100).to(torch.uint8)[:, None, None, None].expand(-1, 3, 84, 84)
    picture = np.asarray(sheet([("x", pixels)], labels))
    margin = picture.shape[1] - 10 * 88
    shown = picture[46, margin + 40 :: 88, 0].tolist()
    assert shown == [0] * 5 + [100] + [200] * 4


class Finder:
    """The whole image is the face, unless it is black."""

    def __init__(self, detector: str, *, workers: int) -> None:
        assert (detector, workers) == ("eye", 0)

    def __enter__(self) -> Finder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def find(self, images: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[Face(box=(0, 0, 4, 4), eyes=None, confidence=1, crop=i)] if i.any() else [] for i in images]


class Recogniser:
    name, weights = "shade", "w"

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        angles = np.array([crop.mean() / 255 * np.pi for crop in crops])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def faces(monkeypatch: pytest.MonkeyPatch, threshold: float | None) -> FacesConfig:
    monkeypatch.setattr(training.calibrate.faces, "FaceFinder", Finder)
    monkeypatch.setattr(training.calibrate.faces, "load_recogniser", lambda name, **_: Recogniser(threshold))
    return FacesConfig(recogniser="shade", detector="eye", workers=0)


def test_faces_are_compared_with_their_own_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(*values: int) -> Tensor:
        return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)

    config = faces(monkeypatch, 0.2)
    with identity_meter(config, flat(51, 0, 153), "cpu") as meter:  # the second has no face
        assert meter is not None
        # One copy of the third lost its face; of the third copies those with a face are not finite.
        copies = torch.stack([flat(51, 99, 204), flat(153, 0, 0), flat(51, 0, 153)])
        sound = torch.tensor([[True] * 3, [True] * 3, [False, True, False]])
        found = meter(MadeNeighbours(pixels=copies, sound=sound, rate=1))
    turned = [0.0, 0.2 * np.pi, 0.4 * np.pi]
    assert found.distance == pytest.approx(np.mean([1 - np.cos(angle) for angle in turned]), abs=1e-5)
    assert found.beyond == pytest.approx(1 / 3)
    assert found.lost == pytest.approx(1 / 4)
    with identity_meter(config, flat(51, 153), "cpu") as meter:
        assert meter is not None
        gone = meter(MadeNeighbours(pixels=flat(0, 0)[None], sound=torch.ones(1, 2).bool(), rate=1))
    assert (gone.distance, gone.beyond, gone.lost) == (None, None, 1)


def test_faces_that_cannot_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with (
        pytest.raises(UserError, match="finds no face in the 2 images"),
        identity_meter(faces(monkeypatch, 0.2), black, "cpu"),
    ):
        pass
    with pytest.raises(UserError, match="threshold is missing"), identity_meter(faces(monkeypatch, None), black, "cpu"):
        pass
