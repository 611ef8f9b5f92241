"""Real faces, as somebody who wants to pass the gate without changing them would send them through."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import tabulate
from pipeline.anonymity.gate.calibration import find_certificate
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.anonymity.gate.verdicts import ImageVerdict
from pipeline.media.rules import PixelRules
from pipeline.streams.shards import WebDatasetInput
from tests.builders import SHARED

pytestmark = pytest.mark.skipif(not (SHARED / "lfw").exists(), reason="needs ../shared/data/lfw")
PEOPLE, SIZE = 12, (64, 64)
Pixels = np.ndarray


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Gate, dict[str, Pixels]]]:
    """The gate over one photograph of each of 12 people."""
    source = WebDatasetInput(urls=(str(SHARED / "lfw" / "dev-00000.tar"),))
    with FaceFinder("dlib", workers=0) as finder:
        dlib = load_recogniser("Dlib", workers=0)
        images: dict[str, Pixels] = {}
        people: list[str | None] = []
        for key, who, image in image_stream(source, SIZE, PixelRules(fit="centre 128"), "json:identity"):
            if who not in people and len(finder.find([image])[0]) == 1:
                images[key] = image
                people.append(who)
            if len(images) == PEOPLE:
                break
        table = tabulate(list(images.values()), list(images), people, finder, [dlib])
        judge = Judge.of(dlib, find_certificate(dlib, finder, SIZE), "deepface")
        yield Gate(finder=finder, judges=(judge,), originals=table, smallest_face=16, near_copy=4), images


def blurred(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.7)))


def mirrored(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image[:, ::-1])


def brighter(image: Pixels) -> Pixels:
    return np.clip(image.astype(int) * 1.15 + 8, 0, 255).astype(np.uint8)


def tiles_shuffled(image: Pixels) -> Pixels:
    order = np.random.default_rng(0).permutation(16)
    tiles = image.reshape(4, 16, 4, 16, 3).swapaxes(1, 2).reshape(16, 16, 16, 3)[order]
    return np.ascontiguousarray(tiles.reshape(4, 4, 16, 16, 3).swapaxes(1, 2).reshape(64, 64, 3))


def judged(world: tuple[Gate, dict[str, Pixels]], change: Callable[[Pixels], Pixels]) -> list[ImageVerdict]:
    gate, images = world
    return gate.judge(list(images), [change(image) for image in images.values()], list(images.values()))


@pytest.mark.parametrize("change", [lambda image: image, blurred, mirrored, brighter])
def test_the_same_face_is_recognised(world: tuple[Gate, dict[str, Pixels]], change: Callable[[Pixels], Pixels]) -> None:
    found = judged(world, change)
    assert {one.verdict for one in found} <= {"recognisable", "undecided"}
    assert sum(one.verdict == "recognisable" for one in found) >= PEOPLE - 1  # one face may get lost on the way


def test_what_is_no_face_is_never_anonymous(world: tuple[Gate, dict[str, Pixels]]) -> None:
    assert not [one for one in judged(world, tiles_shuffled) if one.verdict == "anonymous"]
    blank = judged(world, lambda image: np.full_like(image, 127))
    assert {(one.verdict, one.doubt) for one in blank} == {("undecided", "no_face_in_output")}


def test_the_face_of_another_person_of_the_set_is_recognised(world: tuple[Gate, dict[str, Pixels]]) -> None:
    gate, images = world
    keys, pictures = list(images), list(images.values())
    swapped = []
    for mine, other in zip(pictures, pictures[1:] + pictures[:1], strict=True):
        image = mine.copy()
        image[8:60, 8:56] = other[8:60, 8:56]
        swapped.append(image)
    found = gate.judge(keys, swapped, pictures)
    assert not [one for one in found if one.verdict == "anonymous"]
    assert sum("another original" in one.why for one in found) >= PEOPLE - 2
