"""Embeddings are deepface's: one by one, in batches, in processes."""

import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.anonymity.faces import deepface_recognisers, recognise, weights
from pipeline.anonymity.faces.deepface_recognisers import THRESHOLDS, Deepface, Pooled, network_input, unit
from pipeline.anonymity.faces.detect import FaceFinder, enlarge
from pipeline.anonymity.faces.fast_dlib import FastDlib
from pipeline.anonymity.faces.recognise import FAMILIES, FILES, OWN, available, family_of, load_recogniser
from pipeline.errors import UserError
from tests.anonymity.portraits import needs_dlib, needs_lfw, people, portrait


def represent(image: np.ndarray, name: str) -> np.ndarray:
    """deepface's embedding of the only face, from the enlarged image."""
    from deepface import DeepFace

    (face,) = DeepFace.represent(np.ascontiguousarray(enlarge(image)[..., ::-1]), name, detector_backend="dlib")
    return np.array(face["embedding"])


class Fake:
    """Stands for one of deepface's recognisers: what goes in comes out, smaller; one face without the batch."""

    input_shape, output_shape = (16, 20), 16 * 20 * 3  # width and height, as deepface has them

    def forward(self, images: np.ndarray) -> Any:
        assert images.shape[1:] == (20, 16, 3)
        assert images.dtype == np.float32
        made = images.reshape(len(images), -1).tolist()
        return made[0] if len(made) == 1 else made


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepface.modules import modeling

    real = modeling.get_model_class
    monkeypatch.setattr(
        modeling,
        "get_model_class",
        lambda task, model_name: Fake if model_name == "ArcFace" else real(task, model_name),
    )
    monkeypatch.setattr(deepface_recognisers, "BATCH", 2)
    modeling.build_model("face_detector", "dlib")
    monkeypatch.setitem(modeling.cached_models["facial_recognition"], "ArcFace", None)


@needs_dlib
@needs_lfw
@pytest.mark.parametrize("side", [None, 64])
def test_dlib_s_are_deepface_s_on_people(side: int | None) -> None:
    with FaceFinder(workers=0) as finder:
        images = people(6, side)
        pairs = [(image, found[0]) for image, found in zip(images, finder.find(images), strict=True) if len(found) == 1]
    assert len(pairs) >= 5
    made = load_recogniser("Dlib").embed([face.crop for _, face in pairs])
    wanted = np.array([represent(image, "Dlib") for image, _ in pairs])
    assert np.abs(made - wanted).max() < 2e-5  # the promise is 1e-4


@needs_dlib
@pytest.mark.parametrize("side", [64, 256])
def test_and_on_a_portrait(side: int) -> None:
    with FaceFinder(workers=0) as finder:
        crop = finder.find([portrait(side)])[0][0].crop
    recogniser = load_recogniser("Dlib")
    (made,) = recogniser.embed([crop])
    assert np.abs(made - represent(portrait(side), "Dlib")).max() < 2e-5
    assert recogniser.threshold == 0.07
    assert recogniser.weights == "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"


@needs_dlib
def test_dlib_runs_on_the_port() -> None:
    """Silently: it would say so if dlib's own had to be taken."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(load_recogniser("Dlib"), FastDlib)


@needs_dlib
def test_any_other_of_deepface_s_is_fed_as_deepface_feeds_it(fake: None) -> None:
    """Shape, order of colours, range and black borders, against `represent` with the same network."""
    images = [portrait(side) for side in (50, 64, 90, 128, 200)]
    with FaceFinder(workers=0) as finder:
        crops = [found[0].crop for found in finder.find(images)]
    made = load_recogniser("ArcFace").embed(crops)
    assert (made.shape, made.dtype) == ((5, 960), np.float32)
    assert np.array_equal(made, np.array([represent(image, "ArcFace") for image in images], np.float32))
    assert load_recogniser("ArcFace").embed([]).shape == (0, 960)


@needs_dlib
def test_processes_give_the_same() -> None:
    crops = [portrait(side) for side in (80, 90, 151)]
    pooled, own = Pooled("Dlib", workers=2), Deepface("Dlib")
    made = pooled.embed(crops)
    assert (made.shape, made.dtype) == ((3, 128), np.float32)
    assert np.array_equal(made, own.embed(crops))
    assert np.abs(made - load_recogniser("Dlib").embed(crops)).max() < 2e-5
    assert pooled.weights == own.weights
    assert pooled.embed([]).shape == (0, 128)
    with pytest.raises(UserError, match="recogniser Dlib failed"):  # in the middle of its work
        pooled.embed([*crops, "no image"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="ended already"):
        pooled.embed(crops)


def test_nearly_black_crops_are_stretched_as_deepface_stretches_them() -> None:
    """It divides by 255 only what holds more than 0 and 1."""
    crop = np.zeros((10, 10, 3), np.uint8)
    crop[5:] = 1
    assert network_input([crop], (10, 10)).max() == 1
    crop[0] = 2
    assert network_input([crop], (10, 10)).max() == pytest.approx(2 / 255)


def test_thresholds_are_deepface_s() -> None:
    from deepface.config.threshold import thresholds
    from deepface.modules.modeling import AVAILABLE_MODELS

    assert {name: values["cosine"] for name, values in thresholds.items()} == THRESHOLDS
    assert set(THRESHOLDS) == set(AVAILABLE_MODELS["facial_recognition"])


@pytest.mark.parametrize("name", ["dlib", "", "Human-beings", "../x"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recogniser(name)
    own = ["dlib-chip", "faceres", "lbph", "mobileface", "small"]
    assert str(caught.value) == f"recogniser is {name!r}; known are {', '.join([*THRESHOLDS, *own])}"
    assert {"Dlib", *own} == set(OWN)


@given(arrays(np.float32, (3, 5), elements=st.floats(-1e3, 1e3, width=32)))
def test_unit_rows(rows: np.ndarray) -> None:
    for row, made in zip(rows.astype(float), unit(rows), strict=True):
        length = math.sqrt(sum(x * x for x in row))
        if length > 1e-6:
            assert np.allclose(made, row / length, atol=1e-6)
    assert unit(np.zeros((0, 4))).shape == (0, 4)
    assert (unit(np.zeros((2, 4))) == 0).all()


def test_every_recogniser_has_a_family_and_networks_that_are_one_share_theirs() -> None:
    assert set(FAMILIES) == {*THRESHOLDS, *OWN}
    assert set(FILES) <= set(FAMILIES)
    assert family_of("Dlib") == family_of("dlib-chip") != family_of("Facenet") == family_of("Facenet512")
    with pytest.raises(UserError, match="recogniser is 'Face'; known are VGG-Face"):
        family_of("Face")


def test_an_absent_recogniser_is_told_apart_from_an_unknown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    assert available("small")
    assert not available("ArcFace")
    file = tmp_path / ".deepface" / "weights" / FILES["ArcFace"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert available("ArcFace")
    monkeypatch.setattr(recognise, "installed", lambda package: package != "deepface")
    assert not available("ArcFace")
    assert not available("Dlib")
    with pytest.raises(UserError, match="known are"):
        available("Face")


@needs_dlib
def test_dlib_s_weights_are_there_once_the_extra_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    assert available("Dlib")
    assert available("dlib-chip")
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    assert not available("Dlib")


def test_deepface_s_files_are_named_as_deepface_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setenv("DEEPFACE_BACKEND_ENGINE", "onnx")
    for name in set(THRESHOLDS) - {"Dlib", "Buffalo_L"}:
        with pytest.raises(UserError, match=f"put {re.escape(FILES[name])}"):
            Deepface(name)
