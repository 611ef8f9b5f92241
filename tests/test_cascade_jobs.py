"""Operators on cascades: which stage does what, to the pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.config import validate
from pipeline.diffusion.denoisers import dynamic_threshold
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.views.catalogue import FlipVertical, Negate, Rotate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from pipeline.models.cascade import Cascade
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.models.stage import Enlarging
from pipeline.operators import (
    DDIB,
    OPERATORS,
    Anagram,
    Boomerang,
    Compose,
    Factorized,
    Given,
    Inpaint,
    Interpolate,
    Mosaic,
    SDEdit,
    TileMorph,
)
from pipeline.operators.on_cascades import check, scaled, through
from tests import builders, tiny
from tests.text_model import Judge

CAT, DOG = "a photo of a cat", "a photo of a dog"
FULL = {"IF": 32, "IF+x4": 128}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelConfig]:
    root = tmp_path_factory.mktemp("cascade")
    first, second = tiny.deepfloyd(root / "IF-I"), tiny.deepfloyd_upscaler(root / "IF-II", seed=1)
    x4 = tiny.upscaler(root / "x4")
    stages: list[Any] = [{"path": str(second)}, {"path": str(x4)}]
    return {
        "I": ModelConfig(path=str(first)),
        "IF": ModelConfig(path=str(first), upscalers=stages[:1]),
        "IF+x4": ModelConfig(path=str(first), upscalers=stages),
    }


@pytest.fixture(scope="module")
def models(configs: dict[str, ModelConfig]) -> dict[str, Any]:
    return {name: load_model(configs[name], "cpu") for name in configs}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def noise() -> KeyedNoise:
    return KeyedNoise(b"salt", ["a", "b"], "test", 0)


def images(side: int, seed: int = 1) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def given_of(model: Any, **more: Any) -> Given:
    return Given(pixels=images(model.size[0]), captions=[CAT, DOG], **more)


def run(operator: Any, model: Any, **more: Any) -> Any:
    given = given_of(model, **more)
    assert given.pixels is not None
    return through(operator, model, model.encode(given.pixels), given, noise())


def halves(side: int) -> Tensor:
    """1 on the left, and one pixel of the right: no grid of cells has that edge."""
    mask = torch.zeros(2, 1, side, side)
    mask[..., : side // 2] = 1
    mask[..., side // 4, side - 3] = 1
    return mask


def test_a_model_without_stages_is_the_operators_own_affair(models: dict[str, Any]) -> None:
    model, walk = models["I"], Boomerang(steps=2)
    given = given_of(model)
    assert torch.equal(run(walk, model).pixels, walk(model, given.pixels, given, noise()).pixels)


def test_the_operator_runs_on_every_pixel_stage(models: dict[str, Any]) -> None:
    """By hand: the same walk on the image scaled down, then on the image, given what the first has made."""
    model, walk = models["IF"], Boomerang(steps=3, t_boom=0.7, guidance=2)
    draws, given = noise(), given_of(model)
    small = given.pixels.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    first = walk(model.first, small, given, draws)
    upper = model.stages[0].on(first.pixels, draws)
    second = walk(upper, given.pixels, given, draws)
    done = run(walk, model)
    assert (done.pixels - second.pixels).abs().max() < 1e-3  # means that are rounded another way, and five steps
    assert torch.equal(done.sigmas, first.sigmas)
    assert done.pixels.shape == (2, 3, 32, 32)


def test_level_zero_gives_the_image_back_at_full_size(models: dict[str, Any]) -> None:
    assert torch.equal(run(Boomerang(t_boom=0, steps=1), models["IF"]).pixels, images(32))


def test_latent_stages_enlarge_what_there_is(models: dict[str, Any]) -> None:
    """As Boomerang from the top does, from nothing but noise, given what the stages below have made."""
    model, walk = models["IF+x4"], Boomerang(steps=2, t_boom=0.3, guidance=2, solver="euler")
    draws, given = noise(), given_of(model)
    below = replace(model, stages=model.stages[:1], size=(32, 32))
    small = through(walk, below, model.encode(given.pixels), replace(given, pixels=area(given.pixels, 32)), draws)
    upper = model.stages[1].on(small.pixels, draws)
    top = walk.model_copy(update={"t_boom": Boomerang(t_boom=1).t_boom})
    expected = top(upper, torch.zeros(2, *upper.shape), given, draws).pixels
    done = run(walk, model)
    assert done.pixels.shape == (2, 3, 128, 128)
    assert torch.allclose(done.pixels, expected, atol=1e-5)


def area(pixels: Tensor, side: int) -> Tensor:
    return interpolate(pixels, size=(side, side), mode="area")


@pytest.mark.parametrize("reduce", ["mean", "alternate"])
def test_an_anagrams_upper_stage_sees_views_of_both(reduce: str, models: dict[str, Any]) -> None:
    """One step, so that the output is the estimate; by hand, with raw calls of the network."""
    model, views, prompts = models["IF"], (Rotate(degrees=90), Negate(), FlipVertical()), (CAT, DOG, "a blue car")
    anagram = Anagram(views=views, conditions=prompts, guidance=2, start=0.6, steps=1, solver="euler", reduce=reduce)
    recorded: list[Tensor] = []

    def drawn(like: Tensor) -> Tensor:
        recorded.append(source(like))
        return recorded[-1]

    source: Any = noise()
    drawn.uniform = source.uniform  # type: ignore[attr-defined]
    given = given_of(model)
    done = through(anagram, model, model.encode(given.pixels), given, drawn)  # type: ignore[arg-type]
    below = anagram(model.first, model.encode(given.pixels), given, noise()).pixels
    _, low_noise, epsilon = recorded

    upper = model.stages[0].backbone
    alphas = torch.linspace(0, 1, 1001, dtype=torch.float64)
    bars = torch.cos((alphas + 0.008) / 1.008 * torch.pi / 2) ** 2
    bars = torch.cumprod(1 - (1 - bars[1:] / bars[:-1]).clamp(max=0.999), 0)
    big = interpolate(below, size=(32, 32), mode="bilinear", align_corners=True)
    low = (bars[250].sqrt() * big + (1 - bars[250]).sqrt() * low_noise).float()
    sigma = ((1 - bars[599]) / bars[599]).sqrt()
    x = (images(32) + sigma * epsilon).float()

    def estimate(view: Any, prompt: str) -> Tensor:
        seen = torch.cat([view(x) * bars[599].sqrt().float(), view(low)], 1)

        def predicted(text: str) -> Tensor:
            hidden = upper.embed([text] * 2)["encoder_hidden_states"]
            output = upper.network(seen, 599, hidden, class_labels=torch.tensor([250, 250])).sample
            return view(x) - sigma.float() * output[:, :3]

        towards, away = predicted(prompt), predicted("")
        return view.inverse(dynamic_threshold(away + 2 * (towards - away), 0.95, 1.0))

    each = [estimate(view, prompt) for view, prompt in zip(views, prompts, strict=True)]
    expected = torch.stack(each).mean(0) if reduce == "mean" else each[0]
    error = float((done.pixels - expected).abs().max())
    assert error < 1e-4, error
    for i, view in enumerate(views):
        assert torch.equal(done.others[f"view-{i}"], view(done.pixels))


@pytest.mark.parametrize("name", ["IF", "IF+x4"])
@pytest.mark.parametrize("operator", [Inpaint(steps=3, resamples=1), SDEdit(steps=2)], ids=["inpaint", "sdedit"])
def test_what_the_mask_keeps_is_the_image_at_full_size(name: str, operator: Any, models: dict[str, Any]) -> None:
    model, side = models[name], FULL[name]
    mask = halves(side)
    done = run(operator, model, mask=mask)
    kept = (mask < 0.5).expand(-1, 3, -1, -1)
    assert torch.equal(done.pixels[kept], images(side)[kept])
    changed = (done.pixels - images(side)).abs().amax(1, keepdim=True)
    assert bool((changed[mask > 0.5] > 0).all())


def test_what_is_given_is_scaled_to_each_stage(models: dict[str, Any]) -> None:
    guide = images(32, 7)
    assert torch.equal(run(SDEdit(t0=0, steps=1), models["IF"], guide=guide).pixels, guide)
    small = scaled(given_of(models["IF"], guide=guide, more_guides=[guide], mask=halves(32)), (16, 16))
    assert small.pixels is not None
    assert small.mask is not None
    assert [image.shape for image in (small.pixels, *small.guides)] == [(2, 3, 16, 16)] * 3
    assert torch.allclose(small.guides[1][0, 0, 0, 0], guide[0, 0, :2, :2].mean())
    assert small.mask[0, 0].sum() == 16 * 8 + 1  # any pixel that is to change makes its place change
    assert small.mask[0, 0, 4, 14] == 1


def test_the_images_of_a_tile_morph_are_enlarged_each_from_its_own(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    ask = Enlarging.denoiser
    monkeypatch.setattr(Enlarging, "denoiser", lambda self, rows: seen.append(self.low) or ask(self, rows))
    morph = TileMorph(tiles=4, conditions=(CAT, DOG), steps=2, guidance=2)  # type: ignore[arg-type]
    model, given = models["IF"], given_of(models["IF"])
    first = morph(model.first, model.encode(given.pixels), given, noise())
    quiet = replace(model, stages=(replace(model.stages[0], noise_level=0),))
    done = run(morph, quiet)
    small = torch.cat([first.pixels, first.others["image-2"]])
    (low,) = seen
    assert (low - interpolate(small, size=(32, 32), mode="bilinear", align_corners=True)).abs().max() < 0.1
    assert (low[:2] - low[2:]).abs().max() > 0.2  # so that a swap would show
    for row in range(2):  # made of the same tiles: the same pixels in another order
        a, b = (p[row].flatten(1).sort(1).values for p in (done.pixels, done.others["image-2"]))
        assert torch.equal(a, b)
    assert run(morph, models["IF+x4"]).others["image-2"].shape == (2, 3, 128, 128)


def test_an_operator_with_a_latent_runs_once(models: dict[str, Any]) -> None:
    model, given = models["IF"], given_of(models["IF"])
    bridge, draws = DDIB(source=CAT, target=DOG, steps=2, level=0.5), noise()
    first = bridge(model.first, model.encode(given.pixels), given, draws)
    upper = model.stages[0].on(first.pixels, draws)
    expected = Boomerang(t_boom=1, condition=DOG, steps=2)(upper, torch.zeros(2, 3, 32, 32), given, draws)
    assert torch.allclose(run(bridge, model).pixels, expected.pixels, atol=1e-5)


def test_further_images_go_up_with_the_same_noise(models: dict[str, Any]) -> None:
    """The path begins at the image itself, so the two are one; and it ends elsewhere."""
    model = models["IF"]
    between = Interpolate(condition=CAT, share=0, path=2, steps=2, level=0.5)
    done = run(between, model, guide=images(32, 9))
    assert torch.allclose(done.others["path-1"], done.pixels, atol=1e-4)
    assert (done.others["path-2"] - done.pixels).abs().max() > 1e-2


def test_views_and_components_are_those_of_the_last_pixel_stage(models: dict[str, Any]) -> None:
    parts = Factorized(components={"kind": "hybrid"}, conditions=(CAT, DOG), steps=1)  # type: ignore[arg-type]
    small, large = run(parts, models["IF"]), run(parts, models["IF+x4"])
    assert small.others.keys() == large.others.keys() != set()
    assert all(image.shape == (2, 3, 128, 128) for image in large.others.values())


TWO: dict[str, Any] = {"conditions": [CAT, DOG], "steps": 1}
EDIT: dict[str, Any] = {"source": CAT, "target": DOG, "steps": 1}
OWN, EDITED = [CAT, DOG], ["a cat that sleeps", "a dog that sleeps"]
TRAITS: dict[str, tuple[dict[str, Any], list[int], list[list[str | None]]]] = {
    "anagram": ({"views": ["identity", "flip_vertical"], **TWO}, [16, 32], [[CAT] * 2]),
    "boomerang": ({"steps": 1}, [16, 32], [OWN]),
    "compose": ({"terms": [{"condition": DOG}], "steps": 1}, [16, 32], [[DOG] * 2]),
    "ddib": (EDIT, [16], [[DOG] * 2]),
    "enhance": ({"steps": 1}, [16, 32], [OWN]),
    "factorized": ({"components": "hybrid", **TWO}, [16, 32], [[CAT] * 2]),
    "ilvr": ({"steps": 1}, [16, 32], [OWN]),
    "inpaint": ({"steps": 1, "resamples": 1}, [16, 32], [OWN]),
    "interpolate": (
        {"condition": CAT, "towards": DOG, "path": 2, "steps": 1},
        [16],
        [[CAT] * 2, [CAT] * 2, [CAT] * 2],
    ),
    "mosaic": ({"tiles": 4}, [16], [[None] * 2]),
    "pairs": ({"steps": 1}, [16], [OWN, EDITED]),
    "prompt_to_prompt": (EDIT, [16], [[DOG] * 2, [CAT] * 2]),
    "sdedit": ({"steps": 1, "condition": DOG}, [16, 32], [[DOG] * 2]),
    "tile_morph": ({"tiles": 4, **TWO}, [16, 32], [[CAT] * 2, [DOG] * 2]),
}
"""Settings; the sizes of the stages that the operator runs on; the prompts that the stage above samples under."""


@pytest.mark.parametrize("name", OPERATORS)
def test_traits_on_cascades(name: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    settings, sizes, prompts = TRAITS[name]
    operator, model = OPERATORS[name](name=name, **settings), models["IF+x4"]
    call, ask = type(operator).__call__, Enlarging.denoiser
    ran, asked = list[int](), list[Any]()
    monkeypatch.setattr(
        type(operator), "__call__", lambda self, on, *more: ran.append(on.size[0]) or call(self, on, *more)
    )
    monkeypatch.setattr(Enlarging, "denoiser", lambda self, rows: asked.append(rows) or ask(self, rows))
    extras: dict[str, Any] = {"mask": halves(128), "guide": images(128, 5), "edited": EDITED, "judge": Judge()}
    done = run(operator, model, **{extra: extras[extra] for extra in operator.needs})
    assert ran == sizes
    assert [*asked[-1]][: 2 * len(prompts)] == [prompt for rows in prompts for prompt in rows]
    assert (*done.others,) == operator.further_images
    assert (*done.beside,) == operator.images_beside
    for image in (done.pixels, *done.others.values(), *done.beside.values()):
        assert image.shape == (2, 3, 128, 128)


def test_two_cascades_mix_stage_by_stage(models: dict[str, Any], configs: dict[str, ModelConfig]) -> None:
    model, given, draws = models["IF"], given_of(models["IF"]), noise()
    other = replace(model, stages=(replace(model.stages[0], noise_level=900),))
    prompts: Any = [{"condition": CAT}]
    mixed = Compose(terms=prompts, steps=2, mix={"share": 0.7})  # type: ignore[arg-type]
    small = mixed(model.first, model.encode(given.pixels), replace(given, second=model.first), draws).pixels
    one, two = (cascade.stages[0].on(small, draws) for cascade in (model, other))
    expected = mixed(one, given.pixels, replace(given, second=two), draws).pixels
    assert (run(mixed, model, second=other).pixels - expected).abs().max() < 1e-3
    check(Compose(terms=prompts), sketch_model(configs["IF"]), sketch_model(configs["IF"]))
    with pytest.raises(UserError, match="second_model needs 1 upscalers"):
        check(Compose(terms=prompts), sketch_model(configs["IF"]), sketch_model(configs["I"]))
    with pytest.raises(UserError, match="second_model has upscalers"):
        check(Compose(terms=prompts), sketch_model(configs["I"]), sketch_model(configs["IF"]))
    check(DDIB(source=CAT, target=DOG), sketch_model(configs["IF"]), sketch_model(configs["I"]))


def test_every_stage_is_checked(configs: dict[str, ModelConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    outline = sketch_model(configs["IF+x4"])
    for operator, sizes in ((Compose(terms=({"condition": CAT},)), [16, 32]), (DDIB(source=CAT), [16])):  # type: ignore[arg-type]
        asked: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(type(operator), "check", lambda self, model, second, asked=asked: asked.append(model.size[0]))
            check(operator, outline, None)
        assert asked == sizes
    check(Boomerang(condition=CAT, guidance=3), outline, None)
    check(Mosaic(tiles=4), outline, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="takes prompts"):
        check(Boomerang(condition=3), outline, None)
    check(TileMorph(tiles=16, conditions=(CAT, DOG)), outline, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="16"):
        check(TileMorph(tiles=32, conditions=(CAT, DOG)), outline, None)  # type: ignore[arg-type]


def test_rows_do_not_depend_on_who_came_with_them(models: dict[str, Any]) -> None:
    model, walk = models["IF+x4"], Boomerang(steps=2, guidance=2)
    both, given = run(walk, model), given_of(model)
    own = replace(given, pixels=given.pixels[1:], captions=[DOG])
    alone = through(walk, model, model.encode(own.pixels), own, KeyedNoise(b"salt", ["b"], "test", 0))
    assert (alone.pixels - both.pixels[1:]).abs().max() < 1e-3


def test_a_whole_job_runs_at_full_size(configs: dict[str, ModelConfig], tmp_path: Path) -> None:
    builders.shard(tmp_path / "in" / "a.tar", 3)
    content = builders.recipe(str(tmp_path / "in" / "*.tar"), tmp_path / "out", Path(configs["IF"].path))
    content["model"] |= {"upscalers": [{"path": stage.path} for stage in configs["IF+x4"].upscalers], "batch_size": 2}
    content |= {"operator": {"name": "boomerang", "steps": 1, "condition": "own"}, "caption": "a photo of {label}"}
    content["input"]["label_names"] = ["cat", "dog", "owl"]
    with torch.inference_mode(False):
        manifest = run_job(make_plan(validate(JobConfig, content, "test")), on_change="refuse")
    assert manifest.counts.written == 3
    for name, member in builders.members_of(tmp_path / "out" / "data" / "a.tar").items():
        if name.endswith((".png", ".jpg")):
            assert decode(member)[0].shape == (128, 128, 3)


def test_any_model_may_be_the_first(models: dict[str, Any], configs: dict[str, ModelConfig], tmp_path: Path) -> None:
    """Latents, then latents; a LoRA is the first's alone."""
    sd = tiny.sd(tmp_path / "sd")
    lora: Any = [{"path": str(tiny.lora(tmp_path / "lora", sd))}]
    config = ModelConfig(path=str(sd), upscalers=configs["IF+x4"].upscalers[1:], lora=lora)
    model = load_model(config, "cpu")
    assert isinstance(model, Cascade)
    assert (model.size, model.shape, model.hash) == ((128, 128), (4, 16, 16), sketch_model(config).hash)
    assert run(Boomerang(steps=1), model).pixels.shape == (2, 3, 128, 128)
    plain, beside = (m.stages[-1].backbone.network.state_dict() for m in (models["IF+x4"], model))
    assert all(torch.equal(plain[name], beside[name]) for name in plain)
