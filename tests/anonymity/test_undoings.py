"""What passes as it is, and not once somebody undoes it: negatives, turns, and photographs in disguise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.gate.parts import MANY, shared_parts
from pipeline.anonymity.gate.undoings import UNDOINGS
from pipeline.anonymity.gate.verdicts import ImageVerdict
from tests.anonymity.disguises import DISGUISES
from tests.anonymity.fakes import BACKGROUND, FakeFinder, gate, originals, picture
from tests.anonymity.portraits import needs_dlib, portrait

RED, LIME, PINK = (250, 20, 20), (150, 250, 20), (250, 130, 130)
IMAGES = {"anna": picture((RED, 4, 4)), "bert": picture(((20, 20, 250), 4, 4))}
OTHER = picture((LIME, 14, 10), seed=1)


def judged(image: np.ndarray, *names: str, **settings: object) -> ImageVerdict:
    undoings = {name: UNDOINGS[name] for name in names}
    return gate(originals(IMAGES), undoings=undoings, **settings).judge(["anna"], [image], [IMAGES["anna"]])[0]


class Upright(FakeFinder):
    """Finds faces in the upper half only, as a detector of upright faces would."""

    def _of(self, image: np.ndarray) -> list:
        return [face for face in super()._of(image) if face.box[1] + face.box[3] / 2 < len(image) / 2]


def test_a_face_that_only_a_half_turn_shows_is_recognised() -> None:
    image = picture((LIME, 4, 2), (RED, 14, 18), seed=1)  # the person stands below, where the detector sees nothing
    seen = gate(originals(IMAGES), undoings={}, finder=Upright()).judge(["anna"], [image], [IMAGES["anna"]])[0]
    assert seen.verdict == "anonymous"
    turned = judged(image, "half turn", finder=Upright())
    assert (turned.verdict, turned.doubt, turned.refused_by) == ("recognisable", None, ("fake",))
    assert turned.why == "undone (half turn): fake recognises the person"


def test_a_negative_of_the_person_is_recognised() -> None:
    image = OTHER.copy()
    image[OTHER.max(-1) <= BACKGROUND] = 255 - BACKGROUND  # all is bright: one face, of nobody
    image[2:14, 2:14] = 255 - np.array(RED)
    image[14:, 14:] = 255 - BACKGROUND
    assert judged(image).verdict == "anonymous"
    assert judged(image, "negative").why == "undone (negative): fake recognises the person"


def test_an_honest_image_passes_all_undoings_that_show_nobody() -> None:
    assert judged(OTHER, "quarter turn", "half turn", "three quarter turns", "denoised").verdict == "anonymous"


def test_only_what_would_pass_is_undone() -> None:
    calls = list[int]()

    class Counting(FakeFinder):
        def find(self, images: object) -> list:
            calls.append(len(images))  # type: ignore[arg-type]
            return super().find(images)  # type: ignore[arg-type]

    world = gate(originals(IMAGES), undoings=UNDOINGS, finder=Counting())
    world.judge(["anna", "anna"], [IMAGES["anna"], OTHER], [IMAGES["anna"]] * 2)
    searched = sum(undoing.searched for undoing in UNDOINGS.values())
    assert calls == [2, *[1] * searched]  # both as they are; then the one that passed, wherever faces are searched anew


def test_what_is_released_in_doubt_is_undone_too() -> None:
    image = np.full_like(OTHER, 30)
    image[4:16, 4:16] = 0  # no face …
    negative = 255 - image
    assert judged(image, "negative").doubt == "no_face_in_output"
    images = {"anna": negative, "bert": IMAGES["bert"]}
    for passes, verdict in ((frozenset(), "undecided"), (frozenset({"no_face_in_output"}), "recognisable")):
        world = gate(originals(images), undoings=UNDOINGS, passes=passes)
        assert world.judge(["anna"], [image], [negative])[0].verdict == verdict  # … and yet a negative of the person


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(UNDOINGS)), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_undoings_take_images_of_any_size(seed: int, name: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    undone = UNDOINGS[name].change(image)
    assert undone.dtype == np.uint8
    assert sorted(undone.shape) == sorted(image.shape)
    if "turn" in name or name == "negative":
        back = {"quarter turn": "three quarter turns", "three quarter turns": "quarter turn"}.get(name, name)
        assert (UNDOINGS[back].change(undone) == image).all()


FACE = (15.0, 12.0, 36.0, 36.0)


def test_a_photograph_shares_all_parts_with_itself_and_few_with_another() -> None:
    photograph = portrait(64)
    assert shared_parts(photograph, photograph, FACE) == 1
    assert shared_parts(255 - photograph, photograph, FACE) == 1
    stranger = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    assert shared_parts(stranger, photograph, FACE) < MANY
    assert shared_parts(np.full_like(photograph, 90), photograph, FACE) == 0  # hardly any parts: nothing is said


@pytest.mark.parametrize("name", ["sunglasses", "strongly warped", "stretched", "noise", "hue"])
def test_disguises_leave_many_parts(name: str) -> None:
    photograph = portrait(64)
    assert shared_parts(DISGUISES[name](photograph), photograph, FACE) > MANY


@given(st.tuples(*[st.floats(-50, 120)] * 2, *[st.floats(0.1, 150)] * 2))
def test_any_box_has_a_share(box: tuple[float, float, float, float]) -> None:
    photograph = portrait(64)
    assert 0 <= shared_parts(photograph[::-1].copy(), photograph, box) <= 1


@needs_dlib
def test_suspicion_falls_on_faces_at_any_scale_and_not_on_a_wall() -> None:
    with FaceFinder("dlib", workers=0) as finder:
        images = [portrait(64), portrait(256), np.full((64, 64, 3), 127, np.uint8), portrait(64)[::-1].copy()]
        assert finder.suspects(images, [30, 120, 30, 30]) == [True, True, False, False]
