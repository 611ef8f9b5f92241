"""Fine-tuned networks, parrot galleries and trained inverters break what leaks, and find nothing in nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pipeline.anonymity.attacks import inverter, tuned
from pipeline.anonymity.attacks.figures import RankShare
from pipeline.anonymity.attacks.identification import rates, reidentify, search
from pipeline.anonymity.attacks.inversion import laid, tiles_of
from pipeline.anonymity.attacks.inverter import best_guess, inverted, linear
from pipeline.anonymity.attacks.networks import NETWORKS
from pipeline.anonymity.attacks.parrot import drawn_levels, gallery, parrot_search, worth_parroting
from pipeline.anonymity.attacks.photos import Photos, Threat, layouts
from pipeline.anonymity.attacks.tuned import Pictured, contrast, searched, turns
from pipeline.anonymity.faces.recognise import available, load_recogniser
from tests.anonymity import face_tables
from tests.anonymity.portraits import needs_dlib

Pixels8 = NDArray[np.uint8]
SIDE, PEOPLE, EACH = 32, 60, 3


def smooth(*seed: int) -> NDArray[np.float64]:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(float) - 128


def photo(person: int, number: int) -> Pixels8:
    """The person's own pattern, and over it one of the occasion."""
    return np.clip(128 + 0.7 * smooth(person) + 0.4 * smooth(person, number, 1), 0, 255).astype(np.uint8)


CLEAN = [photo(person, number) for person in range(PEOPLE) for number in range(EACH)]
WHO = np.repeat(np.arange(PEOPLE), EACH)


def photos(person: NDArray[np.int64]) -> Photos:
    hashes = np.random.default_rng(0).integers(0, 2**63, len(person), dtype=np.uint64)
    return Photos(vectors=np.zeros((len(person), 1), np.float32), photo=np.arange(len(person)), person=person,
                  phash=hashes)  # fmt: skip


def pictured(images: list[Pixels8]) -> Pictured:
    return Pictured(photos=photos(WHO), crops=images)


class Tiny(nn.Module):
    """A network that begins at random: what it finds it has learnt."""

    side = 16

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 16, 3, 2, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(16 * 64, 128),
                nn.ReLU(),
                nn.Linear(128, 64),
            )

    def begin(self, pixels: Pixels8) -> torch.Tensor:
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


def shuffled(image: Pixels8) -> Pixels8:
    return laid(tiles_of(image, 8)[np.random.default_rng(0).permutation(16)], SIDE, SIDE)


def constant(image: Pixels8) -> Pixels8:
    return np.full_like(image, 90)


def noise(image: Pixels8) -> Pixels8:
    return np.random.default_rng(int(image.sum())).integers(0, 256, image.shape, dtype=np.uint8)


def tuned_on(operator: Callable[[Pixels8], Pixels8], threat: Threat = "T1") -> dict[str, RankShare]:
    made = pictured([operator(image) for image in CLEAN])
    found = searched(turns(Tiny, made, pictured(CLEAN), made), threat)
    return {name: figures.rank["1"] for name, figures in found.items() if figures}


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network from nothing, and not a trained one a little further."""
    monkeypatch.setattr(tuned, "STEPS", 150)
    monkeypatch.setattr(tuned, "RATE", 2e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("taught")
def test_a_network_learns_to_see_through_shuffled_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of people whom it has never seen: each is tested by the network that was trained on the others."""
    after = tuned_on(shuffled)
    assert after["fine_tuned"].low > 4 * after["fine_tuned"].chance
    assert after["fine_tuned_parrot"].low > 0.7
    monkeypatch.setattr(tuned, "RATE", 1e-9)
    before = tuned_on(shuffled)["fine_tuned"]
    assert before.low <= before.chance < before.high


@pytest.mark.slow
@pytest.mark.usefixtures("taught")
@pytest.mark.parametrize("operator", [noise, constant])
def test_a_network_learns_nothing_where_nothing_is_left(operator: Callable[[Pixels8], Pixels8]) -> None:
    for rank in tuned_on(operator).values():
        assert rank.low <= rank.chance * 1.5
        assert rank.share < 0.08


def test_networks_are_the_same_each_time_and_leave_the_global_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "STEPS", 3)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    made = pictured([shuffled(image) for image in CLEAN])
    first, second = (turns(Tiny, made, pictured(CLEAN))[0] for _ in range(2))
    assert np.array_equal(first.query.vectors, second.query.vectors)
    assert torch.equal(state, torch.get_rng_state())
    assert first.parrot is None


def test_nobody_is_tested_by_a_network_that_knows_them() -> None:
    found = turns(Tiny, pictured(CLEAN), pictured(CLEAN))
    tested = [set(turn.query.person.tolist()) for turn in found]
    assert sorted(set.union(*tested)) == list(range(PEOPLE))
    assert not set.intersection(*tested)
    for turn, people in zip(found, tested, strict=True):
        assert set(turn.clean.person.tolist()) == people


def test_too_few_people_teach_nothing() -> None:
    few = Pictured(photos=photos(WHO)[np.arange(15 * EACH)], crops=CLEAN[: 15 * EACH])
    assert turns(Tiny, few, few) == []
    assert searched([], "T1") == {"fine_tuned": None}
    assert inverted(CLEAN[:45], CLEAN[:45], WHO[:45]) is None


def test_the_contrastive_loss_by_its_formula() -> None:
    rng = np.random.default_rng(0)
    z, person = face_tables.unit(rng.normal(size=(7, 5))).astype(np.float64), np.array([0, 1, 0, 2, 1, 0, 3])
    losses = []
    for i in range(7):
        mates = [j for j in range(7) if j != i and person[j] == person[i]]
        others = np.log(sum(np.exp(z[i] @ z[a] / tuned.TEMPERATURE) for a in range(7) if a != i))
        if mates:
            losses.append(-np.mean([z[i] @ z[j] / tuned.TEMPERATURE - others for j in mates]))
    found = contrast(torch.from_numpy(3 * z), torch.from_numpy(person))
    assert float(found) == pytest.approx(np.mean(losses), abs=1e-5)


@needs_dlib
def test_networks_begin_as_the_recognisers_that_they_are() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (3, 150, 150, 3), dtype=np.uint8)
    dlib, small = NETWORKS["dlib-chip"](), NETWORKS["small"]()
    with torch.no_grad():
        made = dlib(dlib.begin(faces)).numpy()
        crops = np.ascontiguousarray(faces[:, : small.side, : small.side])
        both = sum(small(small.begin(np.ascontiguousarray(side))) for side in (crops, crops[:, :, ::-1]))
    np.testing.assert_allclose(made, load_recogniser("dlib-chip").embed(list(faces)), atol=1e-4)
    np.testing.assert_allclose(both.numpy(), load_recogniser("small").embed(list(crops)), atol=1e-4)


@pytest.mark.skipif(not available("faceres"), reason="needs the converted weights of faceres")
def test_faceres_begins_as_the_recogniser_that_it_is() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    network = NETWORKS["faceres"]()
    with torch.no_grad():
        made = network(network.begin(faces)).numpy()
    np.testing.assert_allclose(made, load_recogniser("faceres").embed(list(faces)), atol=1e-4)
    assert sum(weights.numel() for weights in network.parameters()) > 1.5e6  # type: ignore[attr-defined]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inverter of a quarter of the pixels, which leaves the linear guess nearly as it is."""
    monkeypatch.setattr(inverter, "SIDE", 32)
    monkeypatch.setattr(inverter, "COARSE", 16)
    monkeypatch.setattr(inverter, "STEPS", 4)


def linked(made: list[Pixels8], threat: Threat) -> RankShare:
    """The naive search by thumbnails."""
    query, clean = (photos(WHO).seen_as(layouts(side)["pixels"]) for side in (made, CLEAN))
    figures = rates(search(query, clean, threat))
    assert figures is not None
    return figures.rank["1"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("operator", [shuffled, lambda image: 255 - image], ids=["shuffled", "negative"])
def test_the_inverter_undoes_what_is_the_same_for_all(operator: Callable[[Pixels8], Pixels8]) -> None:
    made = [operator(image) for image in CLEAN]
    back = inverted(made, CLEAN, WHO)
    assert back is not None
    assert linked(made, "T1").share < 0.1
    assert linked(back, "T1").low > 0.7
    assert linked(back, "T2").low > 0.9
    assert all(image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 for image in back)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("operator", [noise, constant])
def test_the_inverter_finds_nothing_in_nothing(operator: Callable[[Pixels8], Pixels8]) -> None:
    back = inverted([operator(image) for image in CLEAN], CLEAN, WHO)
    assert back is not None
    for threat in ("T1", "T2"):
        rank = linked(back, threat)  # type: ignore[arg-type]
        assert rank.low <= rank.chance * 1.5
        assert rank.share < 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_network_of_the_inverter_learns_what_no_line_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of brightness, which fold back: 2 |x − 128|."""

    def folded(image: Pixels8) -> Pixels8:
        return np.abs(2 * (image.astype(int) - 128)).clip(0, 255).astype(np.uint8)

    made, errors = CLEAN[:60], []
    truth = np.stack([folded(image) for image in made]).astype(int)
    for steps in (1, 20):
        monkeypatch.setattr(inverter, "STEPS", steps)
        back = inverted(made, list(truth.astype(np.uint8)), WHO[:60])
        assert back is not None
        errors.append(np.abs(np.stack(back) - truth).mean())
    assert errors[1] < 0.9 * errors[0]


def test_the_linear_guess_of_a_row_comes_from_a_fit_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, others = rng.normal(size=(12, 30)), rng.normal(size=(4, 30))
    y = x @ rng.normal(size=(30, 5)) + rng.normal(size=(12, 5))
    monkeypatch.setattr(inverter, "RIDGES", (0.3,))
    without, guessed = linear(*(torch.from_numpy(side) for side in (x, y, others)))
    ridge = 0.3 * np.clip(np.linalg.eigvalsh((a := x - x.mean(0)) @ a.T), 0, None).mean()

    def fit(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        a, b = x[rows] - x[rows].mean(0), y[rows] - y[rows].mean(0)
        return (at - x[rows].mean(0)) @ np.linalg.solve(a.T @ a + ridge * np.eye(30), a.T @ b) + y[rows].mean(0)

    np.testing.assert_allclose(guessed.numpy(), fit(np.arange(12), others), atol=1e-5)
    for row in range(12):
        np.testing.assert_allclose(without[row], fit(np.delete(np.arange(12), row), x[row]), atol=1e-5)


def test_where_pairs_are_few_the_guess_leaves_images_as_they_are() -> None:
    x, others = (torch.from_numpy(np.random.default_rng(i).normal(size=(10, 50))).float() for i in (0, 1))
    for found, truth in zip(best_guess(x, x + 1, others), (x + 1, others + 1), strict=True):
        torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)
    for found, truth in zip(best_guess(x, 0 * x + 3, others), (0 * x + 3, 0 * others + 3), strict=True):
        torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


def test_a_parrot_gallery_finds_what_the_naive_search_does_not() -> None:
    """A secret rotation of all embeddings, which the attacker can run, but does not know."""
    clean, names = face_tables.people(120, 3, seed=1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(32, 32)))[0]
    pairs = face_tables.pairing(clean, face_tables.unit(clean @ turn), names)
    rows = worth_parroting(pairs.person, pairs.source, 300)
    assert len(rows) == 300
    assert len(np.unique(pairs.person[rows])) == 100  # whole people
    table = face_tables.table({"toy": face_tables.unit(clean[rows] @ turn)}, [None] * 300)
    for threat in ("T1", "T2"):
        naive = rates(reidentify(pairs, "toy", "naive", threat))  # type: ignore[arg-type]
        own = parrot_search(pairs, "toy", gallery(pairs, "toy", rows, table, {}), threat)  # type: ignore[arg-type]
        assert naive is not None
        assert own is not None
        assert naive.rank["1"].share < 0.05
        assert own.rank["1"].share > 0.95
        assert own.queries == 300


def test_who_is_put_through_the_operator_first() -> None:
    person = np.array([0, 1, 1, 2, 2, -1, -1])
    source = np.array([0, 3, 5, -1])
    assert worth_parroting(person, source, 2).tolist() == [3, 4]  # released, and in two originals
    assert set(worth_parroting(person, source, 4)) == {0, 3, 4, 5}
    assert worth_parroting(person, source, 99).tolist() == list(range(7))


def test_levels_are_as_frequent_as_those_of_the_release() -> None:
    drawn = drawn_levels({"0.5": 300, "0.75": 100, "none": 50, "0.9": 0}, 4000)
    assert set(drawn) == {0.5, 0.75}
    assert drawn.count(0.5) == pytest.approx(3000, abs=150)
    assert drawn_levels({"none": 3}, 2) == [None, None]
