"""Trained attackers find what a plain search does not; and inversion undoes what can be undone."""

import io
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.anonymity.attacks.attackers import classify, map_to_clean, trained
from pipeline.anonymity.attacks.identification import rates, reidentify
from pipeline.anonymity.attacks.inversion import (
    ENOUGH_PAIRS,
    Permutation,
    best_permutation,
    invert_ode,
    laid,
    recover_permutation,
    tiles_of,
)
from pipeline.anonymity.attacks.photos import Pairing, layouts
from pipeline.diffusion.inversion import Inversion
from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.models.gaussian import ClosedForm, Gaussian
from tests.anonymity import face_tables
from tests.builders import SHARED


def leak(count: int = 120, *, each: int = 3, dimensions: int = 32) -> Pairing:
    """An operator that turns every embedding by one secret rotation: a plain search sees nothing of it."""
    clean, names = face_tables.people(count, each, dimensions=dimensions, seed=1)
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    made = face_tables.unit(clean @ turn + 0.3 / dimensions**0.5 * rng.normal(size=clean.shape))
    return face_tables.pairing(clean, made, names)


def nothing(count: int = 120) -> Pairing:
    clean, names = face_tables.people(count, 3, seed=1)
    made, _ = face_tables.people(count * 3, 1, seed=4)
    return face_tables.pairing(clean, made, names)


@pytest.mark.parametrize("threat", ["T1", "T2"])
def test_the_map_finds_a_linear_leak_that_the_naive_search_does_not(threat: str) -> None:
    pairs = leak()
    naive = rates(reidentify(pairs, "toy", "naive", threat))  # type: ignore[arg-type]
    mapped = map_to_clean(pairs.made("toy"), pairs.clean("toy"), threat)  # type: ignore[arg-type]
    assert naive is not None
    assert mapped is not None
    assert naive.rank["1"].share < 0.05
    assert mapped.rank["1"].share > (0.9 if threat == "T1" else 0.3)
    assert mapped.queries == 360  # everybody is tested, once


@pytest.mark.parametrize("hidden", [None, 64])
def test_the_classifier_finds_a_linear_leak(hidden: int | None) -> None:
    found = classify(leak(40, each=6).made("toy"), hidden=hidden)
    assert found is not None
    assert found.rank["1"].share > 0.9
    assert found.rank["1"].chance == pytest.approx(1 / 40)
    assert found.queries == 240


def test_long_vectors_are_reduced_and_still_give_the_leak_away() -> None:
    pairs = leak(40, each=6)
    wide = np.linalg.qr(np.random.default_rng(0).normal(size=(2000, 32)))[0].T
    made, clean = (side.seen_as(side.vectors @ wide) for side in (pairs.made("toy"), pairs.clean("toy")))
    found = trained(made, clean, "T1")
    assert {kind: figures.rank["1"].share > 0.8 for kind, figures in found.items()} == dict.fromkeys(found, True)


def test_where_nothing_is_left_nothing_is_found() -> None:
    pairs = nothing()
    for figures in trained(pairs.made("toy"), pairs.clean("toy"), "T1").values():
        assert figures.rank["1"].low <= figures.rank["1"].chance * 1.5
        assert figures.rank["1"].share < 0.04


def test_copies_of_one_photograph_never_stand_on_both_sides() -> None:
    """Photographs that have nothing in common, of which two copies each are released: only copies could be learnt."""
    clean, names = face_tables.people(40, 2, seed=1, spread=100)
    released = face_tables.table({"toy": np.repeat(clean, 2, axis=0)}, [None] * 160)
    pairs = face_tables.pairing(clean, clean, names, released=released, source=np.repeat(np.arange(80), 2))
    found = classify(pairs.made("toy"))
    assert found is not None
    assert found.rank["1"].share < 0.12  # copies on both sides: 1.0


def test_too_few_people_to_learn_from() -> None:
    clean, names = face_tables.people(5, 3)
    pairs = face_tables.pairing(clean, clean, names)
    assert set(trained(pairs.made("toy"), pairs.clean("toy"), "T1").values()) == {None}


def test_attackers_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    classify(leak(10).made("toy"))
    assert torch.equal(state, torch.get_rng_state())


def smooth(seed: int, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def faces(count: int) -> list[np.ndarray]:
    images = []
    with tarfile.open(SHARED / "lfw" / "dev-00000.tar") as archive:
        for member in archive:
            if member.name.endswith(".jpg"):
                content = archive.extractfile(member).read()  # type: ignore[union-attr]
                images.append(np.asarray(Image.open(io.BytesIO(content)).crop((24, 24, 152, 152)).resize((64, 64))))
            if len(images) == count:
                return images
    raise AssertionError


@given(st.sampled_from([4, 8, 16]), st.integers(0, 99))
@settings(max_examples=20)
def test_tiles_are_laid_back(side: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    tiles = tiles_of(image, side)
    assert np.array_equal(tiles[1], image[:side, side : 2 * side])
    assert np.array_equal(laid(tiles, 32, 48), image)
    order = np.random.default_rng(seed).permutation(len(tiles))
    assert np.array_equal(Permutation(tile=side, order=order).undo(laid(tiles[order], 32, 48)), image)


def test_tiles_that_do_not_divide_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 7 pixels do not divide 32 × 48"):
        tiles_of(np.zeros((32, 48, 3), np.uint8), 7)


def shuffled(images: list[np.ndarray], tile: int) -> tuple[np.ndarray, list[np.ndarray]]:
    height, width = images[0].shape[:2]
    order = np.random.default_rng(7).permutation(height * width // tile**2)
    return order, [laid(tiles_of(image, tile)[order], height, width) for image in images]


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_twenty_known_pairs_give_a_permutation_of_real_faces_away() -> None:
    images = faces(60)
    order, released = shuffled(images, 8)
    noisy = [np.clip(image + np.random.default_rng(i).normal(0, 12, image.shape), 0, 255).astype(np.uint8)
             for i, image in enumerate(released)]  # fmt: skip
    pairs = list(zip(images, noisy, strict=True))
    found = recover_permutation(pairs[:ENOUGH_PAIRS], 8)
    assert np.mean(found.order == order) > 0.95
    others = noisy[ENOUGH_PAIRS:]
    before, after = others, [found.undo(image) for image in others]
    clean = layouts(images[ENOUGH_PAIRS:])["pixels"]
    hits = [np.mean((layouts(side)["pixels"] @ clean.T).argmax(1) == np.arange(40)) for side in (before, after)]
    assert hits[0] < 0.3
    assert hits[1] > 0.9


def test_the_right_tile_size_is_found_and_none_where_nothing_moved() -> None:
    images = [smooth(i) for i in range(40)]
    order, released = shuffled(images, 16)
    found, figures = best_permutation(list(zip(images, released, strict=True)))
    assert found is not None
    assert (figures.tile, figures.after) == (16, pytest.approx(1.0))
    assert np.array_equal(found.order, order)
    none, figures = best_permutation(list(zip(images, images, strict=True)))
    assert none is None
    assert (figures.before, figures.moved) == (pytest.approx(1.0), 0)
    none, _ = best_permutation(list(zip(images, [smooth(i + 100) for i in range(40)], strict=True)))
    assert none is None


MODEL = ClosedForm(
    denoise=Gaussian(mean=0.3, std=0.5),
    levels=levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"}),
    size=(8, 8),
    by_class=(Gaussian(mean=0.3, std=0.5), Gaussian(mean=-0.2, std=0.2)),
)


def test_deterministic_boomerang_is_traced_back_to_its_noised_source() -> None:
    """The posterior mean in closed form: the best that can be known of the source."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, *MODEL.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    top = MODEL.levels.sigma(torch.full((4,), 0.4, dtype=torch.float64))
    sigma = top[:, None, None, None]
    noisy = 0.3 + 0.5 * x0 + sigma * noise
    walk = Inversion(steps=60)
    released = walk.walk(MODEL.denoiser(None), noisy, walk.ladder(MODEL.levels, top))
    guess = invert_ode(MODEL, released, 0.4, inversion=walk)
    torch.testing.assert_close(guess, (0.25 * noisy + sigma**2 * 0.3) / (0.25 + sigma**2), atol=1e-3, rtol=0)


def test_ddib_is_undone_exactly() -> None:
    source = 0.3 + 0.5 * torch.randn(4, *MODEL.shape, generator=torch.Generator().manual_seed(0)).double()
    released = -0.2 + 0.2 / 0.5 * (source - 0.3)
    own, target = ([label] * 4 for label in (0, 1))
    back = invert_ode(MODEL, released, 1.0, rows=target, back=(MODEL, own), inversion=Inversion(steps=40))
    assert (released - source).abs().mean() > 0.4
    assert (back - source).abs().mean() < 0.02
