"""Faces are deepface's, bit for bit; processes keep order, tell what failed and end."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.faces import detect as module
from pipeline.anonymity.faces.detect import DETECTORS, Face, FaceFinder, enlarge
from pipeline.anonymity.faces.processes import ModelProcesses
from pipeline.errors import UserError
from tests.anonymity.portraits import needs_dlib, needs_lfw, people, portrait

pytestmark = needs_dlib
BLANK = np.full((40, 50, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def finder() -> Iterator[FaceFinder]:
    with FaceFinder(workers=1) as finder:
        yield finder


def by_deepface(image: np.ndarray) -> list[dict]:
    """What `represent` and `verify` start from; of an image already enlarged."""
    from deepface.modules.detection import extract_faces
    from deepface.modules.exceptions import FaceNotDetected

    try:
        return extract_faces(img_path=np.ascontiguousarray(image[..., ::-1]), detector_backend="dlib")
    except FaceNotDetected:
        return []


def same(ours: list[Face], image: np.ndarray) -> int:
    """How many faces there are; each crop is deepface's to the bit, boxes and eyes are its, in the given pixels."""
    enlarged = enlarge(image)
    theirs = sorted(by_deepface(enlarged), key=lambda f: -f["facial_area"]["w"] * f["facial_area"]["h"])
    assert len(ours) == len(theirs)
    scale = np.array(enlarged.shape[1::-1]) / image.shape[1::-1]
    for our, their in zip(ours, theirs, strict=True):
        assert our.crop.dtype == np.uint8
        assert np.array_equal(our.crop / 255, their["face"])
        area = their["facial_area"]
        place = [area[name] for name in ("x", "y", "w", "h")]
        assert np.allclose(np.array(our.box) * [*scale, *scale], place, atol=1)
        assert our.eyes is not None
        for eye, name in zip(our.eyes, ("left_eye", "right_eye"), strict=True):
            assert np.allclose((np.array(eye) + 0.5) * scale - 0.5, area[name])
        assert our.confidence == pytest.approx(their["confidence"], abs=0.006)  # theirs is rounded
    return len(ours)


@pytest.mark.parametrize("side", [40, 64, 128, 256])
def test_a_portrait_is_cut_as_deepface_cuts_it(side: int, finder: FaceFinder) -> None:
    image = portrait(side)
    before = image.copy()
    assert same(finder.find([image])[0], image) == 1
    assert np.array_equal(image, before)


@needs_lfw
def test_people_are_cut_as_deepface_cuts_them(finder: FaceFinder) -> None:
    images = [*people(4), *people(6, 64)]
    assert sum(same(found, image) for found, image in zip(finder.find(images), images, strict=True)) >= 8


def test_a_grey_image_and_one_wider_than_high(finder: FaceFinder) -> None:
    grey = portrait(100).mean(-1, keepdims=True).round().astype(np.uint8).repeat(3, -1)
    wide = np.pad(portrait(80), ((0, 0), (90, 5), (0, 0)), mode="edge")
    found = finder.find([grey, wide])
    assert [same(f, i) for f, i in zip(found, (grey, wide), strict=True)] == [1, 1]
    assert 90 < found[1][0].box[0] < 130


def test_where_the_face_is(finder: FaceFinder) -> None:
    """The person's left eye is at the right of the picture; the same place at any size."""
    sizes = (64, 128, 256)
    found = [finder.find([portrait(side)])[0][0] for side in sizes]
    for side, face in zip(sizes, found, strict=True):
        assert face.eyes is not None
        left, right = face.eyes
        assert left[0] > right[0]
        assert np.allclose(np.array(face.eyes) / side, np.array(found[-1].eyes) / 256, atol=0.02)
        x, y, width, height = face.box
        assert x < right[0] < left[0] < x + width
        assert y < left[1] < y + height / 2


def test_no_face_is_no_face(finder: FaceFinder) -> None:
    """deepface without `enforce_detection` would give the whole image."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert finder.find([BLANK, noise]) == [[], []]
    assert finder.find([]) == []


@pytest.mark.parametrize("size", [(1, 1), (12, 12), (1, 300), (200, 3)])
def test_tiny_images(size: tuple[int, int], finder: FaceFinder) -> None:
    assert finder.find([np.full((*size, 3), 90, np.uint8)]) == [[]]


def test_a_crowd_of_thirty(finder: FaceFinder) -> None:
    image = np.tile(portrait(128), (5, 6, 1))
    image[:128, :128] = enlarge(portrait(128))[30:158, 20:148]  # one stands nearer
    faces = finder.find([image])[0]
    places = {(int(x + w / 2) // 128, int(y + h / 2) // 128) for x, y, w, h in (face.box for face in faces)}
    assert len(faces) == 30 == len(places)
    areas = [face.box[2] * face.box[3] for face in faces]
    assert areas == sorted(areas, reverse=True)
    assert faces[0].box[0] < 128 > faces[0].box[1]


@given(st.integers(1, 400), st.integers(1, 400))
def test_enlarging(height: int, width: int) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    made = enlarge(image)
    assert (made == 77).all()
    if min(height, width) >= 192:
        assert made is image
    elif max(height, width) <= 21 * min(height, width):
        assert min(made.shape[:2]) == 192
        assert made.shape[0] / height == pytest.approx(made.shape[1] / width, rel=0.51 / 192 + 0.01)
    assert max(made.shape[:2]) <= 4096


def test_enlarging_centres_pixels_as_the_coordinates_say() -> None:
    """A ramp stays one: value at enlarged y = ramp at (y + ½)/3 - ½, away from the border."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (64, 64, 3))
    wanted = 3 * ((np.arange(192) + 0.5) / 3 - 0.5)
    assert np.abs(enlarge(ramp)[:, 90, 0] - wanted)[9:-9].max() <= 0.51


def test_order_is_kept_by_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.anonymity.faces.processes.CHUNK", 1)
    big = portrait(300)  # takes longer than those after it
    images = [big, BLANK, portrait(64), BLANK, portrait(70)]
    with FaceFinder(workers=2) as several:
        found, weights = several.find(images), several.weights
    with FaceFinder(workers=0) as none:
        alone = none.find(images)
        assert none.weights == weights == module.Detection("dlib").weights
    assert [[f.box for f in faces] for faces in found] == [[f.box for f in faces] for faces in alone]
    for ours, theirs in zip(found, alone, strict=True):
        assert all(np.array_equal(a.crop, b.crop) for a, b in zip(ours, theirs, strict=True))
    assert len({len(faces) for faces in found}) == 2


def test_threads_take_turns(finder: FaceFinder) -> None:
    images = [portrait(side) for side in (60, 70, 80, 90)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda image: finder.find([image])[0], images))
    widths = [faces[0].box[2] / image.shape[1] for faces, image in zip(found, images, strict=True)]
    assert max(widths) - min(widths) < 0.1


def test_a_process_that_dies_is_told() -> None:
    with FaceFinder(workers=2) as finder:
        assert finder._pool is not None
        for process in finder._pool._processes.values():
            process.kill()
        with pytest.raises(UserError, match="detector dlib: a worker process ended with status -9"):
            finder.find([BLANK] * 20)
        with pytest.raises(UserError, match="have ended already"):
            finder.find([BLANK])


def test_a_process_that_raises_is_told_and_all_end() -> None:
    with FaceFinder(workers=2) as finder:
        assert finder._pool is not None
        processes = list(finder._pool._processes.values())
        with pytest.raises(UserError, match=r"detector dlib failed \(\w+Error: "):
            finder.find([BLANK, "no image"])  # type: ignore[list-item]
    assert all(process.poll() is not None for process in processes)


def test_closing_and_forgetting_end_the_processes() -> None:
    finder = FaceFinder(workers=1)
    assert finder._pool is not None
    (process,) = finder._pool._processes.values()
    finder.close()
    finder.close()
    assert process.poll() is not None
    forgotten = ModelProcesses("detector", "dlib", workers=1)
    (process,) = forgotten._processes.values()
    del forgotten
    assert process.poll() is not None


def find_in_a_daemon(side: int) -> int:
    with FaceFinder(workers=1) as finder:
        return len(finder.find([portrait(side)])[0])


def test_inside_a_daemon() -> None:
    """An engine's workers are such processes, which `multiprocessing` lets start none."""
    with multiprocessing.get_context("spawn").Pool(1) as outer:
        assert outer.apply(find_in_a_daemon, (64,)) == 1


def test_a_worker_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys, numpy as np
from pipeline.anonymity.faces.worker import TASKS
assert len(TASKS["detector"]("dlib")[0]([np.zeros((64, 64, 3), np.uint8)])) == 1
assert TASKS["recogniser"]("Dlib")[0]([np.zeros((64, 64, 3), np.uint8)])[0].shape == (128,)
print([m for m in ("torch", "scipy", "matplotlib") if m in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    for workers in (0, 1):
        with FaceFinder(workers=workers) as finder:
            finder.find([portrait(64), BLANK])
    assert capfd.readouterr() == ("", "")


def test_detectors() -> None:
    from deepface.modules.modeling import AVAILABLE_MODELS

    assert set(DETECTORS) == set(AVAILABLE_MODELS["face_detector"])
    for unknown in ("skip", "Dlib", ""):
        with pytest.raises(UserError, match=f"detector is '{unknown}'; known are dlib, centerface"):
            FaceFinder(unknown, workers=0)
    with pytest.raises(UserError, match="workers is -1"):
        FaceFinder(workers=-1)
