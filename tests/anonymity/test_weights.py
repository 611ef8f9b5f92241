"""Weight files are found, checked and laid out; nothing is ever downloaded."""

import hashlib
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.anonymity.faces import weights
from pipeline.anonymity.faces.backend import offline
from pipeline.anonymity.faces.deepface_recognisers import THRESHOLDS
from pipeline.anonymity.faces.detect import DETECTORS, FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.errors import UserError
from tests.anonymity.portraits import needs_dlib

LANDMARKS = "shape_predictor_5_face_landmarks.dat"
NETWORK = "dlib_face_recognition_resnet_model_v1.dat"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, and no way out of the machine."""

    def refuse(*arguments: Any) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def fake_package(root: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Stands for the extra's package, with a landmark file of that content."""
    folder = root / "fake_face_models"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('it needs pkg_resources')")
    (folder / "models" / LANDMARKS).write_bytes(content)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(weights, "PACKAGE", "fake_face_models")
    monkeypatch.setitem(weights.PINNED, LANDMARKS, hashlib.sha256(b"sound").hexdigest())


def test_deepface_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from deepface.commons.folder_utils import get_deepface_home

    for value in (str(tmp_path), None):
        monkeypatch.setenv("DEEPFACE_HOME", value) if value else monkeypatch.delenv("DEEPFACE_HOME")
        assert weights.folder() == Path(get_deepface_home()) / ".deepface" / "weights"


@needs_dlib
@pytest.mark.parametrize("file", [LANDMARKS, NETWORK])
def test_dlib_s_files_are_laid_out_from_the_extra(file: str) -> None:
    path = weights.require(file)
    assert path == weights.folder() / file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == weights.PINNED[file] == weights.digest([path])
    assert [entry.name for entry in path.parent.iterdir()] == [file]


def test_the_package_is_never_imported_and_a_second_call_copies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path / "site", monkeypatch, b"sound")
    path = weights.require(LANDMARKS)
    assert path.read_bytes() == b"sound"
    (tmp_path / "site" / "fake_face_models" / "models" / LANDMARKS).write_bytes(b"altered later")
    assert weights.require(LANDMARKS).read_bytes() == b"sound"


@pytest.mark.parametrize("content", [b"soun", b"sounD", b""])
def test_an_altered_file_is_an_error(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "site", monkeypatch, b"sound")
    weights.require(LANDMARKS).write_bytes(content)
    with pytest.raises(UserError, match=f"{LANDMARKS} has sha256 .*; remove the file"):
        weights.require(LANDMARKS)


def test_an_altered_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "site", monkeypatch, b"unsound")
    for _ in range(2):
        with pytest.raises(UserError, match="is expected"):
            weights.require(LANDMARKS)


@pytest.mark.parametrize("missing", ["package", "file"])
def test_without_the_extra(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "site", monkeypatch, b"sound")
    if missing == "package":
        monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    else:
        (tmp_path / "site" / "fake_face_models" / "models" / LANDMARKS).unlink()
    needs = r"detector dlib needs the package no_such_package, .* uv pip install '\.\[faces\]'"
    with pytest.raises(UserError, match=needs if missing == "package" else f"lacks {LANDMARKS}; install it anew"):
        weights.require(LANDMARKS, owner="detector dlib")


def test_a_folder_that_cannot_be_written(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path / "site", monkeypatch, b"sound")
    (home / ".deepface").write_text("a file")
    with pytest.raises(UserError, match="cannot be copied to"):
        weights.require(LANDMARKS)


def test_other_files_are_asked_for(home: Path) -> None:
    with pytest.raises(UserError) as caught:
        weights.require("arcface_weights.onnx", owner="recogniser ArcFace", source="https://a.b/c")
    folder = home / ".deepface" / "weights"
    sentence = f"put arcface_weights.onnx, which deepface gets from https://a.b/c, into {folder}"
    assert str(caught.value) == f"recogniser ArcFace: {sentence}; doppel downloads no weights"
    folder.mkdir(parents=True)
    (folder / "arcface_weights.onnx").write_bytes(b"anything")
    assert weights.require("arcface_weights.onnx").read_bytes() == b"anything"


def test_digests(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1"), b.write_bytes(b"2")
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"1", b"2"))
    assert weights.digest([]) == ""
    assert weights.digest([b]) == two
    assert weights.digest([a, b]) == weights.digest([b, a]) == hashlib.sha256((one + two).encode()).hexdigest()


FILES = {
    "VGG-Face": "vgg_face_weights.onnx", "Facenet": "facenet_weights.onnx", "Facenet512": "facenet512_weights.onnx",
    "ArcFace": "arcface_weights.onnx", "SFace": "face_recognition_sface_2021dec.onnx",
    "OpenFace": "openface_weights.onnx", "DeepFace": "VGGFace2_DeepFace_weights_val-0.9034.onnx",
    "DeepID": "deepid_weights.onnx", "GhostFaceNet": "ghostfacenet_v1.onnx",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(THRESHOLDS) - {"Dlib"}))
def test_a_recogniser_without_weights_is_an_error_with_an_instruction(name: str, home: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_recogniser(name, workers=0)
    if name in FILES:  # the others lack a package
        assert f"recogniser {name}: put {FILES[name]}, which deepface gets from https://" in str(caught.value)
        assert str(home / ".deepface" / "weights") in str(caught.value)
    assert f"recogniser {name}" in str(caught.value)


def test_so_it_is_from_a_process() -> None:
    with pytest.raises(UserError, match=r"recogniser SFace: put face_recognition_sface_2021dec\.onnx"):
        load_recogniser("SFace", workers=1)


@pytest.mark.parametrize("name", sorted(set(DETECTORS) - {"dlib"}))
def test_a_detector_without_weights_or_package_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"detector {name}"):
        FaceFinder(name, workers=0)


@pytest.mark.parametrize("role", ["detector", "recogniser"])
def test_without_dlib(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(UserError, match=rf"{role} [dD]lib needs the package dlib, .*'\.\[faces\]'"):
        FaceFinder(workers=0) if role == "detector" else load_recogniser("Dlib")


def test_deepface_is_left_as_it_was() -> None:
    from deepface.commons import weight_utils
    from deepface.commons.logger import Logger

    before = weight_utils.download_weights_if_necessary, Logger().log_level
    with pytest.raises(ZeroDivisionError), offline("detector x"):
        1 / 0  # noqa: B018
    assert (weight_utils.download_weights_if_necessary, Logger().log_level) == before


def test_a_broken_weight_file_is_an_error(home: Path) -> None:
    folder = home / ".deepface" / "weights"
    folder.mkdir(parents=True)
    (folder / "arcface_weights.onnx").write_bytes(b"an error page")
    with pytest.raises(UserError, match="recogniser ArcFace cannot be built"):
        load_recogniser("ArcFace")
