"""The gate on faces whose distances are known, and on the real ones that an adversary would try."""

import numpy as np
import pytest

from pipeline.anonymity.faces.phash import hamming, phash
from pipeline.anonymity.gate.face_masks import blend, softness, to_change
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.anonymity.gate.verdicts import ImageVerdict
from pipeline.errors import UserError
from tests.anonymity.fakes import FakeFinder, FakeRecogniser, certificate, gate, originals, picture

RED, GREEN, BLUE, GREY = (250, 20, 20), (20, 250, 20), (20, 20, 250), (200, 200, 200)
WARM = (250, 60, 20)  # red's sister: .01 from red
LIME = (150, 250, 20)  # far from all, nearest to green
IMAGES = {
    "anna-1": picture((RED, 4, 4)),
    "bert-1": picture((GREEN, 4, 4)),
    "carl-1": picture((BLUE, 4, 4)),
    "two": picture((RED, 2, 2), (GREEN, 18, 18)),
    "nobody": picture(),
}
PEOPLE = {"anna-1": "anna", "bert-1": "bert", "carl-1": "carl"}
OTHER = picture((LIME, 14, 10), seed=1)


def judged(key: str, image: np.ndarray, **settings: object):
    return judge(gate(originals(IMAGES, PEOPLE), **settings), key, image, IMAGES[key])


def judge(gate: Gate, key: str, image: np.ndarray, source: np.ndarray) -> ImageVerdict:
    return gate.judge([key], [image], [source])[0]


def test_another_face_is_anonymous() -> None:
    found = judged("anna-1", OTHER)
    assert (found.verdict, found.doubt, len(found.faces)) == ("anonymous", None, 1)
    expected = 1 - np.dot(RED, LIME) / np.linalg.norm(RED) / np.linalg.norm(LIME)
    assert found.faces[0].distances["fake"] == pytest.approx(expected, abs=1e-5)


def test_the_same_face_is_recognisable_wherever_it_stands() -> None:
    assert judged("anna-1", picture((RED, 14, 10))).verdict == "recognisable"
    assert judged("anna-1", picture((WARM, 14, 10))).verdict == "recognisable"


def test_the_face_of_another_original_is_recognisable() -> None:
    found = judged("anna-1", picture((BLUE, 14, 10)))
    assert found.verdict == "recognisable"
    assert "another original" in found.why


def test_people_in_one_image_cannot_swap_faces() -> None:
    assert judged("two", picture((GREEN, 2, 2), (RED, 18, 18))).verdict == "recognisable"


def test_each_face_has_its_verdict() -> None:
    found = judged("two", picture((RED, 2, 2), ((20, 150, 250), 18, 18)))
    assert found.verdict == "recognisable"
    assert sorted(face.verdict for face in found.faces) == ["anonymous", "recognisable"]


@pytest.mark.parametrize(
    ("key", "image", "doubt"),
    [
        ("anna-1", picture(seed=1), "no_face_in_output"),
        ("nobody", OTHER, "no_face_in_source"),
        ("anna-1", picture((LIME, 2, 2), (LIME, 18, 18), seed=1), "face_count_changed"),
        ("anna-1", picture((LIME, 2, 2), side=5, seed=1), "face_too_small"),
    ],
)
def test_without_proof_nothing_is_said(key: str, image: np.ndarray, doubt: str) -> None:
    found = judged(key, image)
    assert (found.verdict, found.doubt) == ("undecided", doubt)


def test_recognised_counts_more_than_doubt() -> None:
    assert judged("anna-1", picture((RED, 2, 2), (LIME, 18, 18))).verdict == "recognisable"


def test_the_nearest_original_must_not_be_the_own_one() -> None:
    pale = (250, 120, 120)  # farther from red than the threshold, and still nearest to it
    blue = {f"blue-{i}": picture((BLUE, 4, 4)) for i in range(20)}
    found = judge(gate(originals(IMAGES | blue)), "anna-1", picture((pale, 14, 10)), IMAGES["anna-1"])
    assert found.faces[0].distances["fake"] > 0.05
    assert found.verdict == "recognisable"
    assert "nearest" in found.why


def test_other_photographs_of_the_person_count_where_identities_are_known() -> None:
    images = IMAGES | {"anna-2": picture((GREY, 4, 4))}
    copy = judge(gate(originals(images)), "bert-1", picture((GREY, 8, 9)), IMAGES["bert-1"])
    assert copy.verdict == "recognisable"
    near = (200, 200, 165)  # .006 … .05 from grey: no copy, but recognised
    several = gate(originals(images, PEOPLE | {"anna-2": "anna"}))
    known = judge(several, "anna-1", picture((near, 8, 9)), IMAGES["anna-1"])
    assert known.faces[0].distances["fake"] < 0.05
    assert known.verdict == "recognisable"


def test_matches_with_other_people_are_counted_not_refused() -> None:
    found = judged("bert-1", picture((WARM, 14, 10)))
    assert found.verdict == "anonymous"
    assert found.others_within == {"fake": 2}  # anna, and her face in the image of two


def test_a_near_copy_is_recognisable_whatever_its_face() -> None:
    image = picture((LIME, 5, 5))
    apart = int(hamming(phash([image]), phash(list(IMAGES.values()))).min())
    assert 0 < apart < 20
    assert judged("anna-1", image, near_copy=apart - 1).verdict == "anonymous"
    assert judged("anna-1", image, near_copy=apart).verdict == "recognisable"


def test_thirty_faces_are_judged_each() -> None:
    places = [(left, top) for left in range(2, 92, 15) for top in range(2, 77, 15)]
    crowd = picture(*((RED, left, top) for left, top in places), size=96)
    table = originals({"crowd": crowd, "other": picture((BLUE, 4, 4), size=96)})
    changed = picture(*(((200, 200, 20), left, top) for left, top in places), size=96)
    found = judge(gate(table), "crowd", changed, crowd)
    assert len(found.faces) == 30
    assert judge(gate(table), "crowd", crowd, crowd).verdict == "recognisable"


def test_a_batch_is_judged_like_its_images_alone() -> None:
    several = gate(originals(IMAGES, PEOPLE))
    keys, images = ["anna-1", "bert-1", "two"], [OTHER, picture(seed=1), picture((GREEN, 2, 2))]
    sources = [IMAGES[key] for key in keys]
    alone = [judge(several, k, i, s) for k, i, s in zip(keys, images, sources, strict=True)]
    assert several.judge(keys, images, sources) == alone


def test_a_recogniser_that_breaks_is_no_verdict() -> None:
    broken = gate(originals(IMAGES), recogniser=FakeRecogniser(raises_at=1))
    with pytest.raises(RuntimeError):
        judge(broken, "anna-1", OTHER, IMAGES["anna-1"])


def test_a_recogniser_under_its_floor_certifies_nothing() -> None:
    poor = certificate(tar={"1e-2": 0.4, "1e-3": 0.2, "1e-4": 0.1})
    with pytest.raises(UserError, match="may certify nothing"):
        Judge.of(FakeRecogniser(), poor, "deepface")  # type: ignore[arg-type]


def test_thresholds_come_from_deepface_or_the_certificate() -> None:
    assert Judge.of(FakeRecogniser(), certificate(), "deepface").threshold == 0.05  # type: ignore[arg-type]
    judge = Judge.of(FakeRecogniser(), certificate(), "1e-3")  # type: ignore[arg-type]
    assert judge.threshold == 0.03
    assert Judge.of(FakeRecogniser(), certificate(), "deepface").far == 0.02  # type: ignore[arg-type]


def test_the_fewer_originals_the_less_is_left_to_chance() -> None:
    judge = Judge.of(FakeRecogniser(), certificate(), "deepface")  # type: ignore[arg-type]
    assert judge.copy_distance(2) == 0.05  # of two, a stranger is rarely that near
    assert judge.copy_distance(3) == judge.copy_distance(10**6) == 0.01  # the closest that two people came


def test_verdicts_name_nobody() -> None:
    for image in (IMAGES["anna-1"], OTHER, picture()):
        facts = str(judged("anna-1", image).facts(0))
        assert "anna" not in facts
        assert "bert" not in facts


def test_only_faces_change_softly() -> None:
    boxes = [(8.0, 8.0, 10.0, 12.0)]
    soft = softness(boxes, (32, 40), 0.3, 0.2)
    assert soft.shape == (32, 40)
    assert soft[14, 13] == 1
    assert soft[0, 0] == 0
    assert ((soft > 0) & (soft < 1)).any()
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 256, (32, 40, 3)).astype(np.uint8) for _ in range(2))
    mixed = blend(before, after, soft)
    kept = to_change(soft) == 0
    assert (mixed[kept] == before[kept]).all()
    assert (mixed[soft == 1] == after[soft == 1]).all()
    assert FakeFinder().find([before])  # the fake sees noise, too


def test_masks_of_several_faces_are_the_union() -> None:
    a, b = (2.0, 2.0, 8.0, 8.0), (20.0, 18.0, 8.0, 8.0)
    both = softness([a, b], (32, 32), 0.2, 0.1)
    assert (both == np.maximum(softness([a], (32, 32), 0.2, 0.1), softness([b], (32, 32), 0.2, 0.1))).all()


def test_what_recognisers_alone_speak_against_is_told_apart_with_its_embedding() -> None:
    alone = judged("anna-1", picture((RED, 14, 10)))
    assert alone.refused_by == ("fake",)
    expected = np.array(RED) / np.linalg.norm(RED)
    assert alone.vectors["fake"] == pytest.approx(expected, abs=1e-5)
    others = [
        judged("anna-1", OTHER),  # not refused
        judged("anna-1", picture((RED, 2, 2), (LIME, 18, 18))),  # another number of faces, too
        judged("anna-1", IMAGES["anna-1"], near_copy=4),  # a copy, too
        judged("anna-1", picture(seed=1)),  # no face
    ]
    assert all(found.refused_by == () for found in others)
