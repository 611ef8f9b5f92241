"""Attacks by search: exact in known geometry, at chance without any, and never the other threat model's figures."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anonymity.attacks.figures import NearCopies, WorstIdentity
from pipeline.anonymity.attacks.identification import (
    SEARCHES,
    SearchResult,
    any_as_often,
    chance,
    rates,
    reidentify,
    search,
    share,
    worst_identity,
)
from pipeline.anonymity.attacks.membership import auc, membership, near_copies
from pipeline.anonymity.attacks.photos import Pairing, Photos, related
from pipeline.anonymity.attacks.results import attack
from pipeline.anonymity.attacks.verification import own_thresholds, pair_distances, protection, source_distances
from tests.anonymity import face_tables


def random_photos(seed: int, count: int = 23, people: int = 7) -> Photos:
    rng = np.random.default_rng(seed)
    return Photos(
        vectors=face_tables.unit(rng.normal(size=(count, 5)).round(1) + 0.05),
        photo=rng.integers(0, count // 2, count),
        person=rng.integers(-1, people, count),
        phash=rng.integers(0, 2**63, count, dtype=np.uint64),
    )


@pytest.fixture(scope="module")
def kept() -> Pairing:
    """An operator that keeps the identity: released faces are other photographs of the person."""
    clean, names = face_tables.people(20, 3, seed=1)
    made, _ = face_tables.people(20, 3, seed=1)
    return face_tables.pairing(clean, face_tables.unit(made + 0.02), names)


@pytest.fixture(scope="module")
def lost() -> Pairing:
    """One that draws faces that have nothing to do with the person."""
    clean, names = face_tables.people(100, 3, seed=2)
    made, _ = face_tables.people(300, 1, seed=3)
    return face_tables.pairing(clean, made, names)


@pytest.mark.parametrize("kind", SEARCHES)
def test_kept_identities_are_found_by_every_search(kept: Pairing, kind: str) -> None:
    result = rates(reidentify(kept, "toy", kind, "T1"))
    assert result is not None
    assert result.rank["1"].share == 1.0
    assert result.queries == 60


@pytest.mark.parametrize("kind", ["naive", "reverse", "parrot"])
def test_lost_identities_are_found_as_often_as_by_chance(lost: Pairing, kind: str) -> None:
    result = rates(reidentify(lost, "toy", kind, "T1"))
    assert result is not None
    for rank, figures in result.rank.items():
        expected = 1 - (1 - int(rank) / 299) ** 2  # two mates among 299, nearly
        assert figures.chance == pytest.approx(expected, rel=0.02)
        assert figures.low <= figures.chance * 1.5
        assert figures.share < figures.chance + 0.03


@pytest.mark.parametrize("threat", ["T1", "T2"])
@pytest.mark.parametrize("same", [False, True])
def test_ranks_by_hand(threat: str, same: bool) -> None:
    query = random_photos(0)
    gallery = query if same else random_photos(1, count=31)
    expected = []
    for i in range(len(query)):
        rows = []
        for j in range(len(gallery)):
            own = query.photo[i] == gallery.photo[j]
            person = query.person[i] == gallery.person[j] != -1
            if (same and i == j) or (threat == "T1" and own):
                continue
            distance = np.float32(1) - query.vectors[i : i + 1] @ gallery.vectors[j]
            rows.append((distance[0], j, own if threat == "T2" else person))
        rows.sort(key=lambda row: row[:2])
        hits = [place for place, row in enumerate(rows, 1) if row[2]]
        if hits:
            expected.append((hits[0], len(hits), len(rows)))
    found = search(query, gallery, threat, same=same)  # type: ignore[arg-type]
    assert len(expected) > 5
    ours = list(zip(found.rank.tolist(), found.mates.tolist(), found.candidates.tolist(), strict=True))
    assert [o[1:] for o in ours] == [e[1:] for e in expected]
    assert np.abs(np.array(ours)[:, 0] - np.array(expected)[:, 0]).max() <= 1  # ties that a sum in float32 breaks


@given(st.integers(0, 10_000))
def test_under_t1_the_source_is_never_in_the_gallery(seed: int) -> None:
    query, gallery = random_photos(seed), random_photos(seed + 1)
    mates, barred = related(query, gallery, "T1")
    own = query.photo[:, None] == gallery.photo
    assert barred[own].all()
    assert not mates[own].any()
    mates, barred = related(query, gallery, "T2")
    assert np.array_equal(mates, own)
    assert not barred.any()


def test_a_copy_of_the_source_counts_as_the_source() -> None:
    vectors = face_tables.unit(np.eye(4))
    hashes = np.array([0, 0b1111, 0b11111, 0], dtype=np.uint64)
    photos = Photos(vectors=vectors, photo=np.arange(4), person=np.array([0, 0, 0, 1]), phash=hashes)
    mates, barred = related(photos[np.array([0])], photos, "T1")
    assert barred.tolist() == [[True, True, False, False]]  # a stranger with the same hash is a distractor
    assert mates.tolist() == [[False, False, True, False]]


def test_an_identity_operator_is_caught_under_both_threats() -> None:
    clean, names = face_tables.people(30, 2, seed=5, spread=3.0)  # photographs that hardly show who it is
    pairs = face_tables.pairing(clean, clean, names)
    t1, t2 = (rates(reidentify(pairs, "toy", "naive", threat)) for threat in ("T1", "T2"))  # type: ignore[arg-type]
    assert t1 is not None
    assert t2 is not None
    assert t2.rank["1"].share == 1.0
    assert t1.rank["1"].share < 0.2  # the source would have been found: it was not there


def test_without_second_photographs_or_names_there_is_no_t1() -> None:
    clean, names = face_tables.people(10, 1)
    single = face_tables.pairing(clean, clean, names)
    unknown = face_tables.pairing(clean, clean, [None] * 10)
    for pairs in (single, unknown):
        result = attack(pairs, "toy", "T1", {})
        assert set(result.reidentification.values()) == {None}
        assert result.verification is None
        assert result.worst is None
        assert reidentify(pairs, "toy", "naive", "T2") is not None
    assert reidentify(single, "toy", "parrot", "T2") is None  # no copies


def test_copies_of_one_source_are_linked_under_t2() -> None:
    clean, names = face_tables.people(15, 1)
    made = np.repeat(clean, 2, axis=0)
    released = face_tables.table({"toy": made}, [None] * 30)
    pairs = face_tables.pairing(clean, made, names, released=released, source=np.repeat(np.arange(15), 2))
    result = rates(reidentify(pairs, "toy", "parrot", "T2"))
    assert result is not None
    assert result.rank["1"].share == 1.0
    linked = attack(pairs, "toy", "T2", {}).linkability
    assert linked.d_sys > 0.95


def test_released_images_of_unknown_source_are_no_queries(kept: Pairing) -> None:
    source = kept.source.copy()
    source[::2] = -1
    pairs = Pairing(originals=kept.originals, released=kept.released, source=source)
    found = reidentify(pairs, "toy", "naive", "T1")
    assert found is not None
    assert len(found.rank) == 30


def test_verification_and_linkability_at_both_ends(kept: Pairing, lost: Pairing) -> None:
    found, not_found = (attack(pairs, "toy", "T1", {"a": 0.3}) for pairs in (kept, lost))
    assert found.verification.eer == 0
    assert found.verification.tar["1e-2"].share == 1
    assert found.linkability.d_sys > 0.95
    assert not_found.verification.eer == pytest.approx(0.5, abs=0.06)
    assert not_found.verification.tar["1e-2"].share < 0.04
    assert not_found.linkability.d_sys == pytest.approx(not_found.linkability.chance, abs=0.1)
    assert found.protection.over["a"].share == 0
    assert not_found.protection.over["a"].share == 1


def test_impostors_are_two_people_and_genuine_pairs_are_mates() -> None:
    clean, names = face_tables.people(9, 3)
    pairs = face_tables.pairing(clean, clean, names)
    photos = pairs.clean("toy")
    t1, t2 = (pair_distances(photos, photos, threat) for threat in ("T1", "T2"))  # type: ignore[arg-type]
    assert (len(t1.genuine), len(t1.impostor)) == (9 * 3 * 2, 27 * 24)
    assert (len(t2.genuine), len(t2.impostor)) == (27, 27 * 24)
    assert t2.genuine.max() < 1e-6
    assert t1.genuine.max() < t1.impostor.min()


def test_protection_looks_at_every_face_of_the_source() -> None:
    faces = face_tables.unit(np.eye(4))
    originals = face_tables.table({"toy": faces}, ["a", "b", "c"], image=np.array([0, 0, 1, 2]))
    released = face_tables.table({"toy": faces[[2, 1, 3]]}, [None] * 3, image=np.array([0, 0, 1]))
    pairs = Pairing(originals=originals, released=released, source=np.array([0, 1, 2]))
    distances, source = source_distances(pairs, "toy")
    assert source.tolist() == [0, 1]  # the third has no face
    assert distances.tolist() == [0.0, 1.0]  # the second face of the first is unchanged
    assert protection(pairs, "toy", {"x": 0.1}, "T2").over["x"].share == 0.5


def test_the_worst_identity_is_a_number_and_a_frequency() -> None:
    clean, names = face_tables.people(6, 4, seed=8)
    made, _ = face_tables.people(24, 1, seed=9)
    made[8:12] = clean[8:12]  # person 2 slipped through
    pairs = face_tables.pairing(clean, made, names)
    found = reidentify(pairs, "toy", "naive", "T1")
    worst = worst_identity(found)
    assert worst is not None
    assert worst == WorstIdentity(
        person=int(pairs.person[8]), queries=4, share=1.0, people=worst.people, by_guessing=worst.by_guessing
    )
    assert worst.people == (np.bincount(np.unique(found.person, return_inverse=True)[1]) >= 3).sum()


def test_the_worst_of_many_by_guessing_against_drawn_ones() -> None:
    rng = np.random.default_rng(0)
    queries, chance = rng.integers(3, 9, 40), rng.uniform(0.02, 0.2, 40)
    drawn = (rng.binomial(queries, chance, (20_000, 40)) / queries).max(1)
    for found in (0.25, 1 / 3, 0.5, 2 / 3):
        assert any_as_often(found, queries, chance) == pytest.approx((drawn >= found - 1e-9).mean(), abs=0.012)
    assert any_as_often(0.0, queries, chance) == 1
    assert any_as_often(0.5, queries, 0 * chance) == 0


def test_numbers_of_people_do_not_follow_their_names() -> None:
    vectors = face_tables.unit(np.ones((26, 3)))
    names = [chr(65 + i) for i in range(25)] + [None]
    person = face_tables.pairing(vectors, vectors, names).person
    assert sorted(person.tolist()) == list(range(-1, 25))
    assert person[25] == -1
    assert abs(np.corrcoef(person[:25], np.arange(25))[0, 1]) < 0.5


def test_own_thresholds_separate_the_people_of_the_originals(kept: Pairing) -> None:
    thresholds = own_thresholds(kept, "toy")
    assert set(thresholds) == {"1e-2", "1e-3"}  # 3,420 pairs can't show 1e-4
    impostor = [
        1 - kept.clean("toy").vectors[i] @ kept.clean("toy").vectors[j]
        for i in range(60)
        for j in range(60)
        if i // 3 != j // 3
    ]
    assert np.mean(np.array(impostor) <= thresholds["1e-2"]) <= 0.01


def test_a_bootstrap_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        skill = np.repeat(rng.beta(2, 6, 80), 4)  # people differ, each has four photographs
        figures = share(rng.random(320) < skill, np.repeat(np.arange(80), 4))
        inside += figures.low <= 0.25 <= figures.high
    assert inside >= 52


def test_where_nobody_is_found_the_bound_is_exact() -> None:
    figures = share(np.zeros(50, bool), np.arange(50))
    assert figures.low == 0
    assert (1 - figures.high) ** 50 == pytest.approx(0.05)
    assert share(np.ones(50, bool), np.arange(50)).low == pytest.approx(1 - figures.high)


def test_chance_is_what_random_distances_give() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        query, gallery = random_photos(0), random_photos(1, count=31)
        gallery = gallery.seen_as(rng.normal(size=gallery.vectors.shape))
        found = search(query, gallery, "T1")
        hits.append([(found.rank <= r).mean() for r in (1, 5)])
    assert np.mean(hits, axis=0) == pytest.approx([chance(found, 1), chance(found, 5)], abs=0.02)


def test_layouts_need_no_faces(kept: Pairing) -> None:
    vectors = face_tables.unit(np.random.default_rng(0).normal(size=(60, 9)))
    empty = face_tables.table({"toy": np.zeros((0, 4), np.float32)}, [None] * 60, image=np.zeros(0))
    pairs = Pairing(
        originals=kept.originals, released=empty, source=np.arange(60), layouts={"pixels": (vectors, vectors)}
    )
    assert pairs.recognisers == ("toy", "pixels")
    assert reidentify(pairs, "toy", "naive", "T2") is None
    result = attack(pairs, "pixels", "T2", {"x": 0.5})
    assert result.reidentification["naive"].rank["1"].share == 1
    assert result.protection.over["x"].share == 0


def test_results_hold_no_name_and_no_key(kept: Pairing) -> None:
    for threat in ("T1", "T2"):
        text = json.dumps(attack(kept, "toy", threat, own_thresholds(kept, "toy")).model_dump())  # type: ignore[arg-type]
        assert "Secret" not in text
        assert "key-" not in text
        assert "NaN" not in text


def test_auc_by_hand_and_at_both_ends() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.integers(0, 9, 40).astype(np.float32), rng.integers(2, 11, 30).astype(np.float32)
    by_hand = np.mean((near[:, None] < far) + 0.5 * (near[:, None] == far))
    assert auc(near, far) == pytest.approx(by_hand)
    inside, _ = face_tables.people(50, 2, seed=1)
    outside, _ = face_tables.people(50, 2, seed=2)
    people = np.repeat(np.arange(50), 2)
    kept = membership(inside, outside, inside, inside_people=people, outside_people=people)
    made, _ = face_tables.people(50, 2, seed=3)
    fresh = membership(inside, outside, made, inside_people=people, outside_people=people)
    assert kept is not None
    assert fresh is not None
    assert kept.auc == kept.low == 1
    assert fresh.low < 0.5 < fresh.high
    assert kept.found is not None
    assert kept.found.share == 1
    assert fresh.found is not None
    assert fresh.found.share < 0.1
    few = membership(inside, outside[:99], made, inside_people=people, outside_people=people[:99])
    assert few is not None
    assert few.found is None


def test_calibration_tells_members_that_distance_alone_does_not() -> None:
    """All releases are alike; how near an image is to them says how much it is like all, and little about its own."""
    rng = np.random.default_rng(0)
    people = np.arange(400)
    common = face_tables.unit(rng.normal(size=(1, 64)))

    def images() -> np.ndarray:
        return face_tables.unit(rng.uniform(0.5, 3, (400, 1)) * common + rng.normal(size=(400, 64)) / 8)

    inside, outside = images(), images()
    released = face_tables.unit(2 * common + 0.5 * inside + rng.normal(size=(400, 64)) / 40)
    plain, calibrated = (
        membership(inside, outside, released, inside_people=people, outside_people=people, calibrated=way)
        for way in (False, True)
    )
    assert plain is not None
    assert calibrated is not None
    assert calibrated.low > plain.high
    nothing = membership(inside, outside, images(), inside_people=people, outside_people=people, calibrated=True)
    assert nothing is not None
    assert nothing.low < 0.5 < nothing.high


def test_near_copies_are_counted() -> None:
    originals = np.array([0, 2**40 - 1], dtype=np.uint64)
    released = np.array([0b111, 2**50 - 1, 2**63], dtype=np.uint64)
    assert near_copies(released, originals) == NearCopies(released=3, bits=4, copies=2, nearest=1)
    assert near_copies(released[:0], originals) is None


def test_chance_counts_subsets() -> None:
    gallery, queries = np.array([0, 0, 1, 2, 2, 2, 3]), np.array([0, 1, 2, 2])
    mates = np.array([(gallery == person).sum() for person in queries])
    found = SearchResult(
        rank=mates, distance=np.zeros(4, np.float32), mates=mates, candidates=np.full(4, len(gallery)), person=queries
    )
    for rank in range(1, 8):
        subsets = list(combinations(range(7), rank))
        expected = [np.mean([person in gallery[list(chosen)] for chosen in subsets]) for person in queries]
        assert chance(found, rank) == pytest.approx(np.mean(expected), abs=1e-12)
    assert chance(found, 8) == chance(found, 9) == 1
