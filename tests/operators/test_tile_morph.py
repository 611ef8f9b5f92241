"""Morphs and mosaics on models in closed form, where every output is known to be an assembly of the same tiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators.contract import Given, Transformed
from pipeline.operators.mosaic import Mosaic
from pipeline.operators.tile_morph import TileMorph
from pipeline.report.animate import reassemble

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
H, W = 6, 10
KEYS = ["a", "b", "c"]
NOTHING = Given()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = 3, seed: int = 0) -> Tensor:
    """What an image file can hold."""
    levels = (normal(count, 3, H, W, seed=seed) * 60 + 128).round().clamp(0, 255)
    return levels / 127.5 - 1


def two_gaussians(means: Sequence[Tensor], std: float) -> ClosedForm:
    """A class for each mean."""
    by_class = tuple(Gaussian(mean=mean, std=std) for mean in means)
    return ClosedForm(denoise=Gaussian(std=1.0), by_class=by_class, levels=LEVELS, size=(H, W))


MODEL = two_gaussians([normal(3, H, W, seed=seed) for seed in (5, 6, 7)], 0.3)


def apply(
    operator: Any, z: Tensor, given: Given = NOTHING, keys: Sequence[str] = KEYS, model: Any = MODEL
) -> Transformed:
    operator.check(model, None)
    return operator(model, z, given, KeyedNoise(b"salt", list(keys), operator.name, 0))


def pieces(picture: Tensor) -> list[Tensor]:
    """The four blocks of 3×5."""
    return [picture[:, i : i + 3, j : j + 5] for i in (0, 3) for j in (0, 5)]


def laid(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.cat(list(parts[:2]), 2), torch.cat(list(parts[2:]), 2)], 1)


@pytest.mark.parametrize("solver", ["ancestral", "heun", "dpmpp_2m"])
def test_two_sharp_classes_meet_in_the_mean_of_their_matched_tiles(solver: str) -> None:
    """With std → 0 the estimates are the means μ, so image 1 is (μ_1 + v⁻¹(μ_2))/2, v the best of the 24 ways."""
    means = [normal(3, H, W, seed=1), normal(3, H, W, seed=2)]
    a, b = (pieces(mean) for mean in means)
    way = min(permutations(range(4)), key=lambda w: sum(float((a[w[i]] - b[i]).square().sum()) for i in range(4)))
    assert way != (0, 1, 2, 3)
    first = [(a[k] + b[way.index(k)]) / 2 for k in range(4)]
    operator = TileMorph(conditions=(0, 1), tiles=2, guidance=1, steps=5, solver=solver)
    done = apply(operator, images(), model=two_gaussians(means, 1e-6))
    expected = laid(first), laid([first[k] for k in way])
    for row in range(3):
        torch.testing.assert_close(done.pixels[row], expected[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(done.others["image-2"][row], expected[1], rtol=0, atol=1e-4)
        assert done.details is not None
        assert done.details[row]["made"]["image-2"]["tile"] == list(way)


def test_classes_that_are_rearrangements_of_each_other_are_both_met_and_keep_their_spread() -> None:
    """μ_2 = v(μ_1): each tile is seen by both classes, in noise of its own. The mean of the two estimates has half
    the variance's noise: what is left is between std/2 and std.
    """
    a = pieces(2 * normal(3, H, W, seed=1))
    way, std = [2, 0, 3, 1], 0.3
    model = two_gaussians([laid(a), laid([a[k] for k in way])], std)
    keys = [str(i) for i in range(40)]
    operator = TileMorph(conditions=(0, 1), tiles=2, guidance=1, steps=60)
    done = apply(operator, images(40), keys=keys, model=model)
    assert done.details is not None
    assert all(row["made"]["image-2"]["tile"] == way for row in done.details)
    left = done.pixels - laid(a)
    assert left.mean().item() == pytest.approx(0, abs=0.02)
    assert std / 2 < left.std().item() < std


CUTS: list[Any] = [
    2,
    "pixels",
    "rings",
    {"count": 2, "flips": True},
    {"shape": "irregular", "count": 2},
    {"shape": "rings", "count": 1, "flips": True},
]
every_cut = pytest.mark.parametrize("cut", CUTS, ids=str)


@every_cut
@pytest.mark.parametrize("repeats", [1, 2, "unlimited"])
def test_generated_images_are_assemblies_of_the_first(cut: Any, repeats: Any) -> None:
    operator = TileMorph(conditions=(0, 1, 2), tiles=cut, repeats=repeats, steps=3)
    done = apply(operator, images())
    assert done.others.keys() == {"image-2", "image-3"}
    for other in done.others.values():
        for row in range(3):
            pool = {tuple(p) for p in done.pixels[row].flatten(1).T.tolist()}
            found = [tuple(p) for p in other[row].flatten(1).T.tolist()]
            assert set(found) <= pool
            if repeats == 1:
                assert set(found) == pool
                assert len(set(found)) == H * W


@every_cut
def test_a_fixed_source_is_only_rearranged_and_provenance_gives_the_picture_again(cut: Any) -> None:
    z = images()
    done = apply(TileMorph(conditions=(1, 2), tiles=cut, source="image", steps=4), z)
    assert done.details is not None
    bytes_of = [
        (t * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).numpy() for t in (z, done.pixels, done.others["image-2"])
    ]
    assert not torch.equal(done.pixels, z)
    for row in range(3):
        details = json.loads(json.dumps(done.details[row]))
        assert details["sources"] == ["input"]
        for name, made in zip(("output", "image-2"), bytes_of[1:], strict=True):
            assert (reassemble(details, [bytes_of[0][row]], name) == made[row]).all()
        ordered = [np.sort(pictures[row].reshape(-1, 3) @ [65536, 256, 1]) for pictures in bytes_of]
        assert (ordered[0] == ordered[1]).all()
        assert (ordered[0] == ordered[2]).all()


def test_a_guide_gives_its_tiles_too() -> None:
    z, guide = images(), images(seed=1)
    for source, names in (("image", ["input", "guide"]), ("generated", ["output", "guide"])):
        operator = TileMorph(conditions=(0, 1), tiles=2, source=source, steps=2)
        done = apply(operator, z, Given(guide=guide))
        assert done.details is not None
        assert done.details[0]["sources"] == names
        used = {t // 4 for row in done.details for t in row["made"]["image-2"]["tile"]}
        assert used == {0, 1}
        first = z if source == "image" else done.pixels
        for row in range(3):
            pool = {tuple(p) for t in (first, guide) for p in t[row].flatten(1).T.tolist()}
            assert {tuple(p) for p in done.others["image-2"][row].flatten(1).T.tolist()} <= pool


def test_three_sources_make_nearer_images_than_one() -> None:
    z, more = images(), [images(seed=seed) for seed in (1, 2)]
    operator = TileMorph(conditions=(0,), tiles="pixels", source="image", steps=1, solver="euler", guidance=1)
    model = two_gaussians([normal(3, H, W, seed=5) / 2], 1e-6)  # the one image that there is
    one = apply(operator, z, model=model)
    three = apply(operator, z, Given(guide=more[0], more_guides=more[1:]), model=model)
    assert three.details is not None
    assert three.details[0]["sources"] == ["input", "guide", "guide-2"]
    assert {t // (H * W) for t in three.details[0]["made"]["output"]["tile"]} == {0, 1, 2}
    wanted = normal(3, H, W, seed=5) / 2
    assert (three.pixels - wanted).square().sum() < (one.pixels - wanted).square().sum()
    files = [(t[0] * 127.5 + 127.5).round().byte().permute(1, 2, 0).numpy() for t in (z, *more, three.pixels)]
    assert (reassemble(three.details[0], files[:3]) == files[3]).all()


@pytest.mark.parametrize(
    ("rollout", "match_from", "calls"), [(1, 1.0, 4), (2, 1.0, 8), (4, 1.0, 16), (4, 0.5, 10), (3, 0, 4)]
)
def test_the_rollout_is_the_budget(rollout: int, match_from: float, calls: int) -> None:
    """Of four steps at t/T = 1, ¾, ½, ¼ those from `match_from` on ask the model `rollout` times, the others once."""
    asked = []

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(1)
        return Gaussian(std=0.5)(x, sigma)

    model = replace(MODEL, denoise=counting, by_class=())
    settings = {"conditions": ("none", "none"), "tiles": 2, "guidance": 1, "steps": 4}
    done = apply(TileMorph(rollout=rollout, match_from=match_from, **settings), images(), model=model)
    assert len(asked) == calls
    pool = {tuple(p) for p in done.pixels[0].flatten(1).T.tolist()}
    assert {tuple(p) for p in done.others["image-2"][0].flatten(1).T.tolist()} == pool


def test_rows_do_not_see_one_another() -> None:
    operator = TileMorph(conditions=(0, "own"), tiles=2, steps=4, match_from=[0.2, 0.9])
    z, labels = images(), torch.tensor([2, 0, 1])
    together = apply(operator, z, Given(labels=labels))
    alone = apply(operator, z[1:2], Given(labels=labels[1:2]), keys=["b"])
    torch.testing.assert_close(alone.pixels[0], together.pixels[1])
    torch.testing.assert_close(alone.others["image-2"][0], together.others["image-2"][1])
    assert alone.details is not None
    assert together.details is not None
    assert alone.details[0] == together.details[1]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"conditions": [0]}, "1 condition for source generated: two or more images share their tiles"),
        ({"conditions": []}, "at least 1 item"),
        ({"conditions": [0, 1], "repeats": 0}, "greater than or equal to 1"),
        ({"conditions": [0, 1], "repeats": "many"}, "'unlimited'"),
        ({"conditions": [0, 1], "match": "colour"}, "'l2', 'gradient' or 'features'"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TileMorph(**({"tiles": 2} | settings))


@pytest.mark.parametrize(
    ("tiles", "match", "changes", "sentence"),
    [
        (4, "l2", {}, ": 4 × 4 tiles don't divide an image of 6×10"),
        ({"count": 2, "turns": True}, "l2", {}, ": turns need square tiles"),
        (2, "features", {}, ": match features: the model gives none"),
        (2, "features", {"space": "latent"}, " matches features of pixels .*, and the model works on latents"),
    ],
)
def test_models_that_are_refused(tiles: Any, match: Any, changes: dict[str, Any], sentence: str) -> None:
    for operator in (TileMorph(conditions=(0, 1), tiles=tiles, match=match), Mosaic(tiles=tiles, match=match)):
        with pytest.raises(UserError, match=f"{operator.name}{sentence}"):
            operator.check(replace(MODEL, **changes), None)
    with pytest.raises(UserError, match="condition 9"):
        TileMorph(conditions=(0, 9), tiles=2).check(MODEL, None)


def test_features_of_a_network_follow_the_pixels() -> None:
    """Half of the picture is changed: far from the edge, the other half looks as before."""
    model = load_model(ModelConfig(path="embedded:fashion_mnist/model"), "cpu")
    z = normal(2, 1, 28, 28).clamp(-1, 1)
    z[1, :, :, :14] = z[0, :, :, :14]
    with torch.inference_mode():
        seen = model.features(z)
        assert torch.equal(seen, model.features(z))
    assert seen.shape[2:] == (28, 28)
    assert seen.shape[1] > 8
    apart = (seen[0] - seen[1]).abs().mean((0, 1))
    assert apart[:6].max() < 0.1 * apart[20:].mean()
    done = apply(TileMorph(conditions=(0, 8), tiles=7, match="features", steps=1), z, keys=["a", "b"], model=model)
    assert torch.equal(done.pixels.flatten(1).sort(1)[0], done.others["image-2"].flatten(1).sort(1)[0])


# --- mosaic ---


@every_cut
@pytest.mark.parametrize("tiles_of", ["image", "guide"])
def test_a_mosaic_finds_the_rearrangement_of_a_picture(cut: Any, tiles_of: Any) -> None:
    """The guide is the image rearranged, by a morph; the mosaic of either from the other is exact."""
    image = images()
    guide = apply(TileMorph(conditions=(1,), tiles=cut, source="image", steps=2), image).pixels
    done = apply(Mosaic(tiles=cut, tiles_of=tiles_of), image, Given(guide=guide))
    assert torch.equal(done.pixels, guide if tiles_of == "image" else image)
    assert done.sigmas.tolist() == [[0.0]] * 3
    assert done.details is not None
    assert done.details[0]["sources"] == ["input" if tiles_of == "image" else "guide"]


def test_a_mosaic_is_nearer_to_the_guide_and_nearest_with_unlimited_repeats() -> None:
    image, guide = images(), images(seed=1)
    away = [(image - guide).square().sum().item()]
    for repeats in (1, 2, "unlimited"):
        done = apply(Mosaic(tiles="pixels", repeats=repeats), image, Given(guide=guide))
        away.append((done.pixels - guide).square().sum().item())
    assert away == sorted(away, reverse=True)


def test_a_grey_model_moves_its_one_channel() -> None:
    z = images()[:, :1]
    grey = ClosedForm(denoise=Gaussian(std=0.5), levels=LEVELS, size=(H, W))
    done = apply(TileMorph(conditions=("none", "none"), tiles="pixels", guidance=1, steps=2), z, model=grey)
    assert done.pixels.shape == z.shape
    assert torch.equal(done.pixels.flatten(1).sort(1)[0], done.others["image-2"].flatten(1).sort(1)[0])
