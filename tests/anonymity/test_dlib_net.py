"""The port of dlib's network: dlib itself is the reference; its file is read with care."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.faces import dlib_net, fast_dlib
from pipeline.anonymity.faces.deepface_recognisers import network_input
from pipeline.anonymity.faces.detect import Face, FaceFinder, enlarge
from pipeline.anonymity.faces.dlib_net import FILE, DlibNet, read
from pipeline.anonymity.faces.recognise import crops_for
from pipeline.anonymity.faces.weights import require
from pipeline.errors import UserError
from tests.anonymity.dlib_file import layer, packed, shapes, tensor, whole
from tests.anonymity.portraits import needs_dlib, needs_lfw, people, portrait


@pytest.fixture(scope="module")
def file() -> Path:
    return require(FILE)


@pytest.fixture(scope="module")
def net(file: Path) -> DlibNet:
    return DlibNet(file)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 150, 150, 3), dtype=np.uint8)


def by_dlib(file: Path, faces: np.ndarray) -> np.ndarray:
    import dlib

    return np.array(dlib.face_recognition_model_v1(str(file)).compute_face_descriptor(list(faces)))


def difficult() -> np.ndarray:
    """Black, white, red, shades each way, noise, a photograph."""
    y, x = np.indices((150, 150))
    shades = [np.stack([a, b, 255 - a], axis=-1) for a, b in ((y, x), (x * 3 % 256, y * 5 % 256))]
    flat = [np.full((150, 150, 3), colour) for colour in ((0, 0, 0), (255, 255, 255), (255, 0, 0))]
    return np.stack([*shades, *flat, *noise(1), portrait(150)]).astype(np.uint8)


@needs_dlib
def test_it_gives_what_dlib_gives(net: DlibNet, file: Path) -> None:
    faces = difficult()
    before = faces.copy()
    ours = net(faces)
    assert (ours.dtype, ours.shape) == (np.float32, (len(faces), 128))
    assert np.abs(ours - by_dlib(file, faces)).max() < 2e-5  # the promise is 1e-4
    assert np.array_equal(faces, before)


@needs_dlib
@needs_lfw
def test_and_on_photographs_of_people(net: DlibNet, file: Path) -> None:
    crops = [image[25:150, 38:138] for image in people(12)]
    faces = (network_input(crops, (150, 150))[..., ::-1] * 255).astype(np.uint8)
    assert np.abs(net(faces) - by_dlib(file, faces)).max() < 2e-5


@needs_dlib
def test_a_batch_is_its_faces_one_by_one(net: DlibNet, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = noise(5)
    alone = np.concatenate([net(face[None]) for face in faces])
    monkeypatch.setattr(dlib_net, "BATCH", 2)
    assert np.abs(net(faces) - alone).max() < 1e-6
    assert net(faces[:0]).shape == (0, 128)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_integers(values: list[int]) -> None:
    reader = dlib_net._Reader(b"".join(packed(value) for value in values))
    assert [reader.integer() for _ in values] == values
    with pytest.raises(ValueError, match="ends too early"):
        reader.integer()


def marked(inwards: int, outwards: int, side: int) -> bytes:
    """Parameters that look like a layer's name in places, which must not be taken for one."""
    count = outwards * inwards * side * side + outwards
    parameters = np.frombuffer((b"\x01\x05con_4\0" * (count // 2 + 1))[: 4 * count], "<f4")
    return layer(parameters, np.arange(2 * outwards) / outwards)


@cache
def synthetic() -> bytes:
    return whole([marked(*shape) for shape in shapes()], np.arange(256 * 128).reshape(256, 128))


def test_layers_are_folded_and_names_inside_numbers_are_passed_over() -> None:
    layers, head = read(synthetic())
    assert len(layers) == 29
    assert torch.equal(head, torch.arange(256 * 128).float().view(256, 128))
    strides = [layer.stride for layer in layers]
    assert strides == [2, *[1] * 6, 2, *[1] * 7, 2, *[1] * 5, 2, *[1] * 5, 2, 1]
    numbers = np.frombuffer((b"\x01\x05con_4\0" * 3000)[: 4 * (4704 + 32)], "<f4").astype(np.float64)
    gamma, beta = np.arange(32) / 32, 1 + np.arange(32) / 32
    wanted = numbers[:-32].reshape(32, 3, 7, 7) * gamma[:, None, None, None]
    np.testing.assert_allclose(layers[0].weight, wanted, rtol=1e-6, atol=1e-40)  # some are denormal
    np.testing.assert_allclose(layers[0].bias, numbers[-32:] * gamma + beta, rtol=1e-6)


@pytest.mark.parametrize("kind", ["empty", "short", "half", "version", "shape", "sign", "huge"])
def test_another_file_is_refused(kind: str) -> None:
    sound = synthetic()
    first = len(b"\x01\x01\x01\x05con_4")
    made = {
        "empty": b"",
        "short": sound[:-140000],
        "half": sound[: len(sound) // 2],
        "version": sound[: first + 1] + b"\x03" + sound[first + 2 :],
        "shape": b"\x01\x05con_4" + tensor(np.zeros(40)) + b"\x01\x07affine_" + tensor(np.zeros(64)),
        "sign": sound[:first] + b"\x81" + sound[first + 1 :],
        "huge": b"\x01\x05con_4" + packed(2) + packed(2**63) * 4,
    }[kind]
    with pytest.raises(UserError, match="holds another network, or is damaged"):
        read(made)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(synthetic())
    with pytest.raises(UserError, match=r"sha256 is .* is expected"):
        DlibNet(tmp_path / FILE)


@needs_dlib
def test_on_chips_it_is_dlib_used_its_own_way(file: Path) -> None:
    """Landmarks, chip and descriptor as dlib's own examples make them, from the same detection."""
    import dlib

    image = portrait(96)
    with FaceFinder("dlib", workers=0) as finder:
        (face,) = finder.find([image])[0]
    made = fast_dlib.ChipDlib().embed(crops_for("dlib-chip", [face]))[0]
    enlarged = enlarge(image)
    scale = enlarged.shape[0] / image.shape[0]
    left, top, width, height = (round(side * scale) for side in face.box)
    place = dlib.rectangle(left, top, left + width, top + height)
    landmarks = dlib.shape_predictor(str(require("shape_predictor_5_face_landmarks.dat")))(enlarged, place)
    wanted = dlib.face_recognition_model_v1(str(file)).compute_face_descriptor(enlarged, landmarks)
    assert np.abs(made - np.array(wanted)).max() < 1e-4


def test_chips_come_from_dlib_alone() -> None:
    face = Face(box=(0, 0, 9, 9), eyes=None, confidence=1.0, crop=np.zeros((9, 9, 3), np.uint8))
    assert crops_for("Dlib", [face])[0] is face.crop
    with pytest.raises(UserError, match="needs the landmarks of detector dlib"):
        crops_for("dlib-chip", [face])


def test_sums_of_unequal_pictures() -> None:
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 3, 7)
    wanted = np.zeros((2, 6, 4, 7), np.float32)
    wanted[:, :3, :, :5] += a.numpy()
    wanted[:, :, :3] += b.numpy()
    for pair in ((a, b), (b, a)):
        assert np.array_equal(dlib_net._add(*pair), wanted)


@needs_dlib
@pytest.mark.parametrize("workers", [0, 1])
def test_a_port_that_differs_is_not_used(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: DlibNet, faces: np.ndarray) -> np.ndarray:
        return np.full((len(faces), 128), 0.1, np.float32)

    monkeypatch.setattr(DlibNet, "__call__", wrong)
    with pytest.warns(UserWarning, match="dlib's own is used"):
        recogniser = fast_dlib.load_dlib(device="cpu", workers=workers)
    monkeypatch.undo()
    crop = portrait(120)
    own, fast = recogniser.embed([crop, crop]), fast_dlib.load_dlib(device="cpu", workers=0).embed([crop, crop])
    assert np.abs(own - fast).max() < 1e-5
    assert (recogniser.name, recogniser.threshold) == ("Dlib", 0.07)
    assert len(recogniser.weights) == 64
    assert recogniser.embed([]).shape == (0, 128)
