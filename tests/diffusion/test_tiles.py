"""Laws of tiles: exact cover, least cost against brute force, and pictures that are known to be assemblies."""

from __future__ import annotations

import json
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.tiles import matching
from pipeline.diffusion.tiles.assembling import assemble, average, share
from pipeline.diffusion.tiles.matching import Matcher, Tiling, assign, costs, gradient, values
from pipeline.diffusion.tiles.regions import (
    Assembly,
    Cut,
    block_symmetries,
    from_details,
    origins,
    outlines,
    to_details,
)
from pipeline.diffusion.tiles.regions import total as tiles_of
from pipeline.models.gaussian import ClosedForm, Gaussian

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"})
SIZE = (12, 18)
CUTS: list[Any] = [
    3,
    {"count": 2, "flips": True},
    {"shape": "irregular", "count": 2, "seed": 4},
    {"shape": "irregular", "count": 3},
    "pixels",
    "rings",
    {"shape": "rings", "count": 2, "flips": True},
]
every_cut = pytest.mark.parametrize("cut", [Cut.model_validate(cut) for cut in CUTS], ids=str)
SQUARE = [Cut.model_validate(c) for c in ({"count": 3, "turns": True}, {"count": 4, "turns": True, "flips": True})]


def matcher(cut: Cut, size: tuple[int, int] = SIZE, measure: Any = "l2", repeats: Any = 1, **model: Any) -> Matcher:
    tiling = Tiling(tiles=cut, match=measure, repeats=repeats)
    return tiling.matcher(ClosedForm(denoise=Gaussian(), levels=LEVELS, size=size, **model))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scrambled(cut: Cut, size: tuple[int, int], rows: int, sources: int = 1, seed: int = 0) -> Assembly:
    """Each tile somewhere else, in its own group, moved by any symmetry."""
    rng = np.random.default_rng(seed)
    tiles, tile, turn, start = cut(size), [], [], 0
    for group in tiles:
        n = len(group.pixels)
        chosen = np.stack([rng.permutation(n * sources)[:n] for _ in range(rows)])
        tile.append(chosen // n * tiles_of(tiles) + start + chosen % n)
        turn.append(rng.integers(len(group.symmetries), size=(rows, n)))
        start += n
    return Assembly(np.concatenate(tile, 1), np.concatenate(turn, 1))


def laid(cut: Cut, sources: Tensor, assembly: Assembly) -> Tensor:
    return assemble(sources, torch.from_numpy(origins(cut(tuple(sources.shape[-2:])), assembly)))


# --- regions ---


@given(st.sampled_from(CUTS), st.integers(1, 4), st.integers(1, 4))
def test_every_pixel_is_in_exactly_one_tile(cut: Any, a: int, b: int) -> None:
    size = (12 * a, 24 * b)
    tiles = Cut.model_validate(cut)(size)
    pixels = np.concatenate([group.pixels.ravel() for group in tiles])
    assert sorted(pixels) == list(range(size[0] * size[1]))
    for group in tiles:
        m = group.pixels.shape[1]
        assert (np.sort(group.symmetries) == np.arange(m)).all()
        assert (group.symmetries[0] == np.arange(m)).all()


@pytest.mark.parametrize(
    ("flips", "turns", "count"), [(False, False, 1), (True, False, 4), (False, True, 4), (1, 1, 8)]
)
def test_symmetries_of_a_square_are_a_group(flips: bool, turns: bool, count: int) -> None:
    found = block_symmetries(3, 3, flips=flips, turns=turns)
    assert len(found) == count
    assert {tuple(a[b]) for a, b in product(found, found)} == {tuple(a) for a in found}


@pytest.mark.parametrize("seed", range(5))
def test_irregular_tiles_are_translates_of_one_connected_shape_that_is_no_block(seed: int) -> None:
    size, h, w = (20, 36), 5, 9
    (tiles,) = Cut(shape="irregular", count=4, seed=seed)(size)
    y, x = np.divmod(tiles.pixels, size[1])
    steps = {(int(dy), int(dx)) for dy, dx in zip((y[:, 0] - y[0, 0]) % 20, (x[:, 0] - x[0, 0]) % 36, strict=True)}
    assert steps == {(i * h, j * w) for i in range(4) for j in range(4)}
    assert ((y - y[:, :1]) % 20 == (y[0] - y[0, 0]) % 20).all()
    assert ((x - x[:, :1]) % 36 == (x[0] - x[0, 0]) % 36).all()
    inside = set(zip(y[0].tolist(), x[0].tolist(), strict=True))
    assert len({p for p, _ in inside}) > h  # interlocks with the rows above or below
    reached = [next(iter(inside))]
    for p, q in reached:
        around = {((p + i) % 20, (q + j) % 36) for i in (-1, 0, 1) for j in (-1, 0, 1)}  # touching at a corner counts
        reached += (around & inside) - set(reached)
    assert len(reached) == h * w


def test_another_seed_is_another_shape() -> None:
    a, b = (Cut(shape="irregular", count=2, seed=seed)((24, 24))[0].pixels for seed in (0, 1))
    assert (np.sort(a) != np.sort(b)).any()


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_rings_hold_the_quarter_turns_of_a_square(side: int) -> None:
    picture = np.arange(side * side).reshape(side, side)
    for line, ring in zip(outlines((side, side)), Cut(shape="rings")((side, side)), strict=True):
        rolls = {tuple(ring.pixels[0][g]) for g in ring.symmetries}
        assert len(rolls) == len(line)
        for k in range(4):
            assert tuple(np.rot90(picture, k).ravel()[line]) in rolls


def test_thick_rings_turn_as_one_and_flips_mirror_them() -> None:
    picture = np.arange(64).reshape(8, 8)
    (ring, _) = Cut(shape="rings", count=2, flips=True)((8, 8))
    ways = {tuple(ring.pixels[0][g]) for g in ring.symmetries}
    assert len(ways) == 2 * 28
    for k, mirrored in product(range(4), (picture, picture.T)):
        assert tuple(np.rot90(mirrored, k).ravel()[ring.pixels[0]]) in ways


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (5, "5 × 5 tiles don't divide an image of 12×18"),
        ({"shape": "irregular", "count": 4}, "4 × 4 tiles don't divide an image of 12×18"),
        ({"shape": "rings", "count": 4}, "4 rings don't divide the 6 that an image of 12×18 has"),
        ({"count": 2, "turns": True}, "turns need square tiles, and 2 × 2 of 12×18 are 6×9"),
        ({"shape": "blocks"}, "count, the tiles on each side"),
        ({"shape": "pixels", "count": 3}, "count, the tiles on each side"),
        ({"shape": "irregular", "count": 2, "flips": True}, "not irregular tiles"),
        ({"shape": "pixels", "turns": True}, "not pixels tiles"),
        ({"shape": "rings", "turns": True}, "leave out turns"),
        ({"count": 2, "seed": 1}, "seed belongs to the irregular shape"),
        (0, "greater than or equal to 1"),
        ("hexagons", "'blocks', 'irregular', 'pixels' or 'rings'"),
    ],
)
def test_cuts_that_are_refused(cut: Any, sentence: str) -> None:
    with pytest.raises((ValueError, ValidationError), match=sentence.replace("(", r"\(")):
        Cut.model_validate(cut)(SIZE)


# --- matching ---


@pytest.mark.parametrize("measure", ["l2", "gradient"])
def test_costs_are_the_definition(measure: str) -> None:
    """min over g of the distance, tile by tile, by array operations on the tiles as pictures."""
    cut, (h, w) = Cut(count=2, flips=True, turns=True), (6, 6)
    target, source = normal(3, h, w), normal(2, 3, h, w, seed=1)
    (group,) = cut((h, w))
    describe = values if measure == "l2" else gradient(group, w)
    flat = source.transpose(0, 1).flatten(1)
    cost, turn = costs(target.flatten(1), flat, group, (h, w), describe)

    def parts(picture: Tensor) -> list[np.ndarray[Any, Any]]:
        return [picture[:, i : i + 3, j : j + 3].double().numpy() for i in (0, 3) for j in (0, 3)]

    def distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        if measure == "l2":
            return float(((a - b) ** 2).sum())
        sides = sum(float((np.diff(a - b, axis=axis) ** 2).sum()) for axis in (1, 2))
        return sides + float((9 * (a - b).mean((1, 2)) ** 2).sum())

    def ways(b: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return [np.rot90(side, k, (1, 2)) for side in (b, b[:, ::-1]) for k in range(4)]

    found = [*parts(source[0]), *parts(source[1])]
    expected = [[min(distance(a, way) for way in ways(b)) for b in found] for a in parts(target)]
    np.testing.assert_allclose(cost, expected, atol=0.02)  # the way a tile goes costs up to 1e-4 a value
    for i, a in enumerate(parts(target)):
        for j, b in enumerate(found):
            moved = b.reshape(3, 9)[:, group.symmetries[turn[i, j]]].reshape(3, 3, 3)
            assert distance(a, moved) == pytest.approx(expected[i][j], abs=1e-4)


@pytest.mark.parametrize("cut", [*SQUARE, Cut(shape="rings")], ids=str)
def test_costs_do_not_depend_on_how_many_symmetries_are_tried_at_once(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, source = normal(3, 144), normal(3, 144, seed=1)
    for group in cut((12, 12)):
        monkeypatch.undo()
        whole = costs(target, source, group, (12, 12), values)
        monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 2 * group.pixels.shape[0] ** 2)  # two symmetries at a time
        parts = costs(target, source, group, (12, 12), values)
        np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5, atol=1e-4)
        assert (parts[1] == whole[1]).all()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**31))
def test_assignment_is_the_best_of_all(places: int, there: int, repeats: int, seed: int) -> None:
    cost = np.random.default_rng(seed).random((places, there))
    if places > there * repeats:
        with pytest.raises(ValueError, match=f"{places} target tiles, and only {there} source tiles × {repeats}"):
            assign(cost, repeats)
        return
    chosen = assign(cost, repeats)
    assert np.bincount(chosen).max() <= repeats
    ways = (way for way in product(range(there), repeat=places) if np.bincount(way).max() <= repeats)
    assert cost[np.arange(places), chosen].sum() == pytest.approx(min(cost[np.arange(places), w].sum() for w in ways))


def test_assignment_is_the_best_of_the_720_ways_to_lay_six_tiles() -> None:
    cost = np.random.default_rng(1).random((6, 6))
    best = min(cost[np.arange(6), list(way)].sum() for way in permutations(range(6)))
    assert cost[np.arange(6), assign(cost, 1)].sum() == pytest.approx(best)


def test_unlimited_repeats_take_the_best_for_each_place() -> None:
    cost = np.random.default_rng(0).random((7, 5))
    assert (assign(cost, "unlimited") == cost.argmin(1)).all()


@every_cut
@pytest.mark.parametrize("repeats", [1, "unlimited"])
def test_the_same_picture_stays_as_it_is_and_so_does_a_flat_one(cut: Cut, repeats: Any) -> None:
    picture = normal(2, 3, *SIZE)
    picture[1] = -1
    tile, turn = matcher(cut, repeats=repeats)(picture, picture[:, None])
    assert (tile == np.arange(tile.shape[1])).all()
    assert (turn == 0).all()


@pytest.mark.parametrize(
    ("cut", "size"), [(Cut.model_validate(c), SIZE) for c in CUTS] + [(c, (12, 12)) for c in SQUARE], ids=str
)
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_a_rearranged_picture_is_recovered_exactly(cut: Cut, size: tuple[int, int], sources: int) -> None:
    pictures = normal(2, sources, 3, *size)
    hidden = scrambled(cut, size, 2, sources)
    target = laid(cut, pictures, hidden)
    found = matcher(cut, size)(target, pictures)
    assert (found.tile == hidden.tile).all()
    assert torch.equal(laid(cut, pictures, found), target)


@pytest.mark.parametrize("measure", ["l2", "gradient"])
@pytest.mark.parametrize("cut", [Cut(count=6), *SQUARE, Cut(shape="irregular", count=3), Cut(shape="rings")], ids=str)
def test_an_assembly_is_made_of_the_same_tiles(cut: Cut, measure: str) -> None:
    """As a multiset, each tile in any of its symmetric ways."""
    source, target = normal(2, 1, 3, 12, 12), normal(2, 3, 12, 12, seed=1)
    found = laid(cut, source, matcher(cut, (12, 12), measure)(target, source))

    def multiset(picture: Tensor) -> list[Any]:
        kept = []
        for group in cut((12, 12)):
            tiles = picture.flatten(1)[:, torch.from_numpy(group.pixels)].movedim(0, 1)
            kept += [min(tile[:, g].flatten().tolist() for g in group.symmetries) for tile in tiles]
        return sorted(kept)

    for row in range(2):
        assert multiset(found[row]) == multiset(source[row, 0])
        nearer = (found[row] - target[row]).square().sum() < (source[row, 0] - target[row]).square().sum()
        assert nearer or measure != "l2"


def test_repeats_bound_how_often_a_tile_is_used_and_bring_the_picture_nearer() -> None:
    source, target = normal(1, 1, 3, *SIZE), normal(1, 3, *SIZE, seed=1)
    errors = []
    for repeats in (1, 2, 5, "unlimited"):
        found = matcher(Cut(count=6), repeats=repeats)(target, source)
        if repeats != "unlimited":
            assert np.bincount(found.tile[0]).max() <= repeats
        errors.append((laid(Cut(count=6), source, found) - target).square().sum().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


def test_gradients_tell_tiles_apart_by_their_slopes_and_flat_ones_by_their_mean() -> None:
    """Brightness off by .3: stripes still go to stripes, where l2 takes the flat one."""
    stripes = torch.tensor([0.2, -0.2] * 3)
    flat = torch.zeros(6)
    source = torch.stack([flat - 0.15, stripes]).repeat_interleave(3, 0)[None, None, None]
    target = torch.stack([0.8 * stripes - 0.3, flat]).repeat_interleave(3, 0)[None, None]
    source, target = (torch.cat([t, t + 5], -1) for t in (source, target))  # 2 × 2 tiles of 3×6
    assert matcher(Cut(count=2), (6, 12), "l2")(target, source).tile[0].tolist() == [0, 1, 2, 3]
    assert matcher(Cut(count=2), (6, 12), "gradient")(target, source).tile[0].tolist() == [2, 3, 0, 1]
    dim, bright = torch.full((1, 1, 6, 12), -0.5), torch.zeros(1, 1, 6, 12)
    bright[..., 6:] = dim[..., :6] + 1  # flat tiles: left dim or not
    moved = bright.flip(-1)
    assert matcher(Cut(count=2), (6, 12), "gradient")(moved, bright[:, None]).tile[0].tolist() == [1, 0, 3, 2]


def test_features_are_what_the_model_sees() -> None:
    """A model that sees the sign only: brightness is nothing to it."""

    class Signs(ClosedForm):
        def features(self, z: Tensor) -> Tensor:
            return z.sign().repeat(1, 2, 1, 1)

    model = Signs(denoise=Gaussian(), levels=LEVELS, size=(2, 2))
    source, target = torch.tensor([[[[0.1, -0.9], [0.9, -0.1]]]]), torch.tensor([[[[-0.1, 0.9], [-0.9, 0.1]]]])
    found = Tiling(tiles=Cut(shape="pixels"), match="features").matcher(model)(target, source[:, None])
    assert found.tile[0].tolist() in ([1, 0, 3, 2], [3, 0, 1, 2], [1, 2, 3, 0], [3, 2, 1, 0])
    with pytest.raises(ValueError, match="match features: the model gives none"):
        matcher(Cut(shape="pixels"), measure="features")
    for cut in (Cut(count=1, flips=True), Cut(shape="rings")):
        with pytest.raises(ValueError, match="a feature does not turn with its tile"):
            Tiling(tiles=cut, match="features").matcher(model)


def test_latents_have_no_features_to_match() -> None:
    with pytest.raises(ValueError, match="match features: the model gives none"):
        matcher(Cut(count=2), measure="features", space="latent")


# --- assemblies ---


def test_average_solves_least_squares() -> None:
    """The tiles t that minimise ‖t − source‖² + Σ ‖v(t) − target‖², by the normal equations."""
    sources, targets = normal(1, 2, 1, 2, 3), normal(1, 3, 1, 2, 3, seed=1)
    origin = torch.randint(12, (1, 3, 6), generator=torch.Generator().manual_seed(2))
    a = torch.cat([torch.eye(12), *(torch.eye(12)[origin[0, k]] for k in range(3))]).double()
    b = torch.cat([sources.flatten(), targets.flatten()]).double()
    expected = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    torch.testing.assert_close(average(sources, targets, origin).flatten(), expected.float())


def test_sharing_projects() -> None:
    """Images that share their tiles are left alone; the result shares them; rows do not see one another."""
    cut = Cut(count=3)
    own = matcher(cut)
    images = normal(4, 3, 2, *SIZE)
    shared, each = share(own, images, images, [], generated=True)
    again, _ = share(own, shared, shared, [], generated=True)
    torch.testing.assert_close(again, shared)
    for k in (1, 2):
        assert torch.equal(shared[:, k], laid(cut, shared[:, :1], each[k - 1]))
    torch.testing.assert_close(share(own, images[2:3], images[2:3], [], generated=True)[0], shared[2:3])


@every_cut
def test_details_give_the_assembly_back(cut: Cut) -> None:
    made = scrambled(cut, SIZE, 2, sources=2)
    details = to_details(cut, SIZE, ["input", "guide"], {"output": made})
    tiles, found = from_details(json.loads(json.dumps(details[1])), "output")
    assert (origins(tiles, found) == origins(cut(SIZE), made)[1:]).all()
