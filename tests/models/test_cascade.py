"""DeepFloyd IF and the ×4 upscaler against diffusers' own pipelines, and what holds for each stage alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import Noise
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, unlimited
from pipeline.models.cascade import Cascade, CascadeSketch
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.operators import Boomerang, Given
from tests import tiny
from tests.models.parity import assert_parity

CAT, DOG = "a photo of a cat", "a photo of a dog"
STEPS = 5
SMALL = (16, 16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cascade")
    return {
        "IF-I": tiny.deepfloyd(root / "IF-I"),
        "IF-II": tiny.deepfloyd_upscaler(root / "IF-II", seed=1),
        "x4": tiny.upscaler(root / "x4"),
    }


def config_of(folders: dict[str, Path], *upscalers: Any, **options: Any) -> ModelConfig:
    return ModelConfig(path=str(folders["IF-I"]), upscalers=upscalers, **options)


@pytest.fixture(scope="module")
def config(folders: dict[str, Path]) -> ModelConfig:
    return config_of(folders, {"path": str(folders["IF-II"])}, {"path": str(folders["x4"])})


@pytest.fixture(scope="module")
def cascade(config: ModelConfig) -> Cascade:
    model = load_model(config, "cpu")
    assert isinstance(model, Cascade)
    return model


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Replay:
    """The draws that a reference pipeline makes with the same generator, in its order."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)

    def uniform(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64)


def unit_start(noise: Replay, sigma: float) -> Noise:
    """References begin with noise of deviation 1 in their scale: x = √(1+σ²)·ε. Ours is σ·ε: the first draw differs."""
    first = [(1 + sigma**2) ** 0.5 / sigma]
    return lambda like: noise(like) * (first.pop() if first else 1.0)


def sampled(model: Model, noise: Replay, guidance: float, solver: Any) -> Tensor:
    walk = Boomerang(t_boom=1, steps=STEPS, solver=solver, spacing="model", condition="own", guidance=guidance)
    sigma = float(walk.schedule(model, model.levels.sigma(torch.ones(1, dtype=torch.float64)))[0, 0])
    start: Any = unit_start(noise, sigma)
    start.uniform = noise.uniform
    return walk(model, torch.zeros(2, *model.shape), Given(captions=[CAT, DOG]), start).pixels


def small_images(seed: int = 5) -> Tensor:
    return torch.rand(2, 3, *SMALL, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pipeline(folder: Path, kind: Any) -> Any:
    pipe = kind.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fixed_variance(pipe: Any) -> Any:
    """The learned variance is dropped here: the reference drops it, too."""
    pipe.register_modules(
        scheduler=diffusers.DDPMScheduler.from_config(pipe.scheduler.config, variance_type="fixed_small")
    )
    return pipe


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_stage_one_samples_as_diffusers_does(folders: dict[str, Path], cascade: Cascade, guidance: float) -> None:
    pipe = fixed_variance(pipeline(folders["IF-I"], diffusers.IFPipeline))
    assert pipe.scheduler.config.thresholding
    reference = pipe(
        prompt=[CAT, DOG], num_inference_steps=STEPS, guidance_scale=guidance, clean_caption=False, output_type="pt",
        generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    ours = sampled(cascade.first, Replay(3), guidance, "ancestral")
    error = float((ours - reference).abs().max())
    assert_parity(float(error))
    assert isinstance(cascade.first, Backbone)
    free = sampled(replace(cascade.first, limit=unlimited), Replay(3), guidance, "ancestral")
    assert (free - reference).abs().max() > 0.01  # thresholding had something to do


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("noise_level", [250, 40])
def test_stage_two_samples_as_diffusers_does(folders: dict[str, Path], guidance: float, noise_level: int) -> None:
    pipe = fixed_variance(pipeline(folders["IF-II"], diffusers.IFSuperResolutionPipeline))
    reference = pipe(
        prompt=[CAT, DOG], image=small_images(), num_inference_steps=STEPS, guidance_scale=guidance,
        noise_level=noise_level, clean_caption=False, output_type="pt", generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    noise = Replay(3)
    start = noise(torch.zeros(2, 3, 32, 32))
    given = {} if noise_level == 250 else {"noise_level": noise_level}
    model = load_model(config_of(folders, {"path": str(folders["IF-II"]), **given}), "cpu")
    assert isinstance(model, Cascade)
    upper = model.stages[0].on(small_images(), noise)
    after: list[Tensor] = [start]
    generator = noise.generator

    class Then(Replay):
        def __init__(self) -> None:
            self.generator = generator

        def __call__(self, like: Tensor) -> Tensor:
            return after.pop() if after else super().__call__(like)

    error = float((sampled(upper, Then(), guidance, "ancestral") - reference).abs().max())
    assert_parity(float(error))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("noise_level", [20, 300])
def test_the_upscaler_samples_as_diffusers_does(folders: dict[str, Path], guidance: float, noise_level: int) -> None:
    pipe = pipeline(folders["x4"], diffusers.StableDiffusionUpscalePipeline)
    pipe.register_modules(scheduler=diffusers.DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True))
    reference = pipe(
        prompt=[CAT, DOG], image=small_images(), num_inference_steps=STEPS, guidance_scale=guidance,
        noise_level=noise_level, output_type="pt", generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    given = {} if noise_level == 20 else {"noise_level": noise_level}
    model = load_model(config_of(folders, {"path": str(folders["x4"]), **given}), "cpu")
    assert isinstance(model, Cascade)
    noise = Replay(3)
    ours = sampled(model.stages[0].on(small_images(), noise), noise, guidance, "euler")
    error = float((ours.clamp(-1, 1) - (reference * 2 - 1)).abs().max())
    assert_parity(float(error))


def test_the_sketch_agrees_with_the_model(config: ModelConfig, cascade: Cascade) -> None:
    sketch = sketch_model(config)
    assert isinstance(sketch, CascadeSketch)
    assert (sketch.size, sketch.shape, sketch.space) == ((128, 128), (3, 16, 16), "pixel")
    assert [stage.size for stage in sketch.stages] == [(32, 32), (128, 128)]
    assert [stage.shape for stage in sketch.stages] == [(3, 32, 32), (4, 32, 32)]
    pairs = zip([sketch, sketch.first, *sketch.stages], [cascade, cascade.first, *cascade.stages], strict=True)
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    for told, found in pairs:
        for name in ("size", "shape", "space", "conditioning", "unconditional", "classes", "class_names", "hash"):
            assert getattr(told, name) == getattr(found, name), name
        assert torch.equal(told.levels.sigma(u), found.levels.sigma(u))
    assert len({part.hash for part in (cascade, cascade.first, *cascade.stages)}) == 4


def test_a_cascade_may_be_of_other_than_square_images(folders: dict[str, Path]) -> None:
    stages = [{"path": str(folders["IF-II"])}, {"path": str(folders["x4"])}]
    sketch = sketch_model(config_of(folders, *stages, size=(16, 24)))
    assert isinstance(sketch, CascadeSketch)
    assert [part.size for part in (sketch.first, *sketch.stages)] == [(16, 24), (32, 48), (128, 192)]


def test_the_hash_covers_all_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(folders["IF-II"], tmp_path / "other")
    file = other / "image_noising_scheduler" / "scheduler_config.json"
    before = sketch_model(config_of(folders, {"path": str(other)})).hash
    assert before == sketch_model(config_of(folders, {"path": str(folders["IF-II"])})).hash
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_schedule": "linear"}))
    assert sketch_model(config_of(folders, {"path": str(other)})).hash != before


def test_one_t5_serves_both_stages_where_it_is_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    same = tiny.deepfloyd_upscaler(tmp_path / "same")
    shutil.rmtree(same / "text_encoder")
    shutil.copytree(folders["IF-I"] / "text_encoder", same / "text_encoder")
    for folder, shared in ((same, True), (folders["IF-II"], False)):
        model = load_model(config_of(folders, {"path": str(folder)}), "cpu")
        assert isinstance(model, Cascade)
        assert isinstance(model.first, Backbone)
        assert (model.stages[0].backbone.embed is model.first.embed) == shared


REFUSED: dict[str, tuple[Callable[[dict[str, Path]], ModelConfig], str]] = {
    "stage II alone": (lambda f: ModelConfig(path=str(f["IF-II"])), r"IF-II .*belongs under model\.upscalers"),
    "x4 alone": (lambda f: ModelConfig(path=str(f["x4"])), r"x4 .*belongs under model\.upscalers"),
    "stage I above": (
        lambda f: config_of(f, {"path": str(f["IF-I"])}),
        r"upscalers\[0\].*'IFPipeline'; known are IFSuperResolutionPipeline, StableDiffusionUpscalePipeline",
    ),
    "nowhere": (lambda f: config_of(f, {"path": "/nowhere"}), r"upscalers\[0\].*'/nowhere' is not a folder"),
    "noise": (
        lambda f: config_of(f, {"path": str(f["x4"]), "noise_level": 351}),
        "noise_level is 351; allowed are 0 to 350",
    ),
    "noise of IF": (
        lambda f: config_of(f, {"path": str(f["IF-II"]), "noise_level": 1000}),
        "noise_level is 1000; allowed are 0 to 999",
    ),
    "twice": (
        lambda f: config_of(f, {"path": str(f["x4"])}, {"path": str(f["IF-II"])}),
        "32 pixels a side, no multiple of the 64",
    ),
    "odd size": (lambda f: config_of(f, size=(17, 16)), "17 × 16; allowed are multiples of 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_cascade_is_refused(name: str, folders: dict[str, Path]) -> None:
    make, why = REFUSED[name]
    with pytest.raises(UserError, match=why):
        sketch_model(make(folders))


def any_noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(like.shape[-1]))


def part(cascade: Cascade, name: str, rows: Sequence[int] = (0, 1)) -> Backbone:
    """A stage as a model, for these rows of the small images and of their noise."""
    if name == "I":
        assert isinstance(cascade.first, Backbone)
        return cascade.first
    stage = cascade.stages[["II", "x4"].index(name)]
    full = stage.on(torch.nn.functional.interpolate(small_images(), size=(32, 32)), any_noise)
    return replace(full, low=full.low[list(rows)])


@pytest.mark.parametrize("name", ["I", "II", "x4"])
def test_rows_of_a_batch_know_nothing_of_each_other(name: str, cascade: Cascade) -> None:
    model = part(cascade, name)
    x, sigma = any_noise(torch.zeros(2, *model.shape)) * 3, torch.tensor([0.5, 3.0], dtype=torch.float64)
    both = model.denoiser([CAT, DOG])(x, sigma)
    for i, prompt in enumerate([CAT, DOG]):
        alone = part(cascade, name, [i]).denoiser([prompt])(x[[i]], sigma[[i]])
        assert (alone - both[[i]]).abs().max() < 1e-5
    changed = model.denoiser([CAT, "a red house"])(x, sigma)
    assert (changed[0] - both[0]).abs().max() < 1e-6
    assert (changed[1] - both[1]).abs().max() > 1e-3
    padded = part(cascade, name, [0, 1, 1, 1]).denoiser([CAT, DOG, DOG, DOG])
    assert (padded(x[[0, 1, 1, 1]], sigma[[0, 1, 1, 1]])[:2] - both).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["II", "x4"])
def test_the_small_images_go_with_each_condition_of_theirs(name: str, cascade: Cascade) -> None:
    """Rows come condition by condition, image by image: 2 images serve 2·3 rows."""
    model = part(cascade, name)
    x, sigma = any_noise(torch.zeros(6, *model.shape)), torch.full((6,), 2.0, dtype=torch.float64)
    rows = [CAT, CAT, DOG, DOG, None, None]
    six = model.denoiser(rows)(x, sigma)
    for k in range(6):
        alone = part(cascade, name, [k % 2]).denoiser([rows[k]])(x[[k]], sigma[:1])
        assert (alone - six[[k]]).abs().max() < 1e-5, k


@pytest.mark.parametrize("name", ["I", "II", "x4"])
@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (3.0, 4)])
def test_guidance_costs_rows_and_no_calls(name: str, guidance: float, rows: int, cascade: Cascade) -> None:
    model = part(cascade, name)
    calls: list[int] = []
    hook = model.network.register_forward_hook(lambda module, given, output: calls.append(len(given[0])))
    walk = Boomerang(t_boom=0.5, steps=3, condition=CAT, guidance=guidance)
    walk(model, torch.zeros(2, *model.shape), Given(), KeyedNoise(b"salt", ["a", "b"], "test", 0))
    hook.remove()
    assert calls == [rows] * 3


def test_a_prompt_is_embedded_once(folders: dict[str, Path]) -> None:
    model = load_model(config_of(folders), "cpu")
    seen: list[Any] = []
    embed = model.embed._embed  # type: ignore[attr-defined]
    model.embed._embed = lambda prompt: seen.append(prompt) or embed(prompt)  # type: ignore[attr-defined]
    for _ in range(2):
        model.denoiser([CAT, DOG, CAT, None])
    assert seen == [CAT, DOG, None]


def test_low_precision_is_the_networks_own_affair(folders: dict[str, Path]) -> None:
    stages = [{"path": str(folders["IF-II"])}, {"path": str(folders["x4"])}]
    model = load_model(config_of(folders, *stages, dtype="bfloat16"), "cpu")
    assert isinstance(model, Cascade)
    for name in ("I", "II", "x4"):
        one = part(model, name)
        assert next(one.network.parameters()).dtype == torch.bfloat16
        x0 = one.denoiser([CAT, DOG])(torch.zeros(2, *one.shape), torch.ones(2, dtype=torch.float64))
        assert x0.dtype == torch.float32
        assert one.decode(x0).isfinite().all()
