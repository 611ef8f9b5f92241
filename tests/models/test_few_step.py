"""LCM, LCM-LoRA and Turbo against diffusers' own pipelines, its generator's draws replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.model import RowCondition
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.config import Lora, ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.models.few_step import Consistency, boundary, guidance_embedding
from pipeline.models.latent import load_latent
from pipeline.operators import Boomerang, Given, SDEdit
from tests import tiny
from tests.models.parity import assert_parity

PROMPTS = ["a photo of a cat", "a red car in the snow"]
GIVEN = Given(captions=PROMPTS)


class Drawn:
    """Noise as a generator of diffusers draws it: for the whole batch at once. The first draw may be scaled."""

    def __init__(self, first: Tensor | None = None) -> None:
        self.generator, self.first = torch.Generator().manual_seed(3), first

    def __call__(self, like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=self.generator)
        if self.first is not None:
            drawn, self.first = drawn * per_row(self.first, drawn), None
        return drawn

    def uniform(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64)


def lcm_scheduler(folder: Path, **options: Any) -> Path:
    """Another scheduler for a folder, as one who adds an LCM-LoRA writes it."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    diffusers.LCMScheduler(**betas, **options).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "LCMScheduler"]}))
    return folder


def sdxl_turbo(folder: Path) -> Path:
    """SDXL as its Turbo comes: SD's in the spacing of its grid."""
    file = tiny.sdxl(folder) / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"timestep_spacing": "trailing"}))
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "lcm": tiny.lcm,
    "turbo": tiny.turbo,
    "sdxl_turbo": sdxl_turbo,
    "lcm_lora": lambda folder: lcm_scheduler(tiny.sd(folder)),
}

every_turbo = pytest.mark.parametrize("family", ["turbo", "sdxl_turbo"])


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = FOLDERS[family](tmp_path_factory.mktemp("models") / family)
        return made[family]

    return make


@pytest.fixture(scope="module")
def lcm(folder_of: Callable[[str], Path]) -> Any:
    return load_model(ModelConfig(path=str(folder_of("lcm"))), "cpu")


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sampled(model: Any, operator: Boomerang) -> Tensor:
    """Images in [-1, 1] from pure noise: an image of zeros, noised all the way up to what the network sees there."""
    first = operator.schedule(model, model.levels.sigma(torch.ones(2, dtype=torch.float64)))[:, 0]
    noise: Any = Drawn(1 / (first * model.levels.scale(first)))
    with torch.inference_mode():
        return operator(model, torch.zeros(2, *model.shape), GIVEN, noise).pixels.clamp(-1, 1)


def edited(model: Any, operator: SDEdit, pixels: Tensor) -> Tensor:
    noise: Any = Drawn()
    with torch.inference_mode():
        return operator(model, model.encode(pixels), GIVEN, noise).pixels.clamp(-1, 1)


def start_from(pipe: Any, z: Tensor) -> None:
    """Has a pipeline begin at the same latents: its own draws them from the posterior."""

    def prepare(image: Any, timestep: Tensor, *others: Any) -> Tensor:
        (generator,) = (other for other in others if isinstance(other, torch.Generator))
        return pipe.scheduler.add_noise(z, torch.randn(z.shape, generator=generator), timestep)

    pipe.prepare_latents = prepare


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Of `ours` in [-1, 1] and images of diffusers in [0, 1]."""
    assert theirs.std() > 0.05, "an image that is nothing proves nothing"
    return (ours - (2 * theirs - 1)).abs().max().item()


# --- LCM ---


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("guidance", [None, 1.0, 3.0])
def test_lcm_samples_as_its_pipeline(folder_of: Callable[[str], Path], steps: int, guidance: float | None) -> None:
    pipe = quiet(diffusers.LatentConsistencyModelPipeline.from_pretrained(folder_of("lcm"), safety_checker=None))
    told = {} if guidance is None else {"guidance_scale": guidance}
    theirs = pipe(PROMPTS, num_inference_steps=steps, generator=generator(), output_type="pt", **told).images
    model = load_model(ModelConfig(path=str(folder_of("lcm")), distilled_guidance=guidance), "cpu")
    error = apart(sampled(model, Boomerang(t_boom=1, steps=steps, solver="consistency", spacing="model")), theirs)
    assert_parity(float(error))


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (3, 0.3)])
def test_lcm_edits_as_its_pipeline(folder_of: Callable[[str], Path], lcm: Any, steps: int, strength: float) -> None:
    pixels, folder = images(), folder_of("lcm")
    pipe = quiet(diffusers.LatentConsistencyModelImg2ImgPipeline.from_pretrained(folder, safety_checker=None))
    with torch.inference_mode():
        start_from(pipe, lcm.encode(pixels))
    theirs = pipe(
        PROMPTS, image=pixels, num_inference_steps=steps, strength=strength, generator=generator(), output_type="pt"
    ).images
    operator = SDEdit(t0=strength, steps=steps, solver="consistency", spacing="model")
    error = apart(edited(lcm, operator, pixels), theirs)
    assert_parity(float(error))


@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_stable_diffusion_with_an_lcm_lora(folder_of: Callable[[str], Path], tmp_path: Path, guidance: float) -> None:
    folder = folder_of("lcm_lora")
    lora = tiny.lora(tmp_path, folder)
    pipe = quiet(diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None))
    pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    theirs = pipe(
        PROMPTS,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=generator(),
        output_type="pt",
        cross_attention_kwargs={"scale": 0.3},
    ).images
    model = load_model(ModelConfig(path=str(folder), lora=(Lora(path=str(lora), scale=0.3),)), "cpu")
    operator = Boomerang(t_boom=1, steps=4, solver="consistency", spacing="model", guidance=guidance)
    error = apart(sampled(model, operator), theirs)
    assert_parity(float(error))


# --- Turbo ---


@every_turbo
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_turbo_samples_as_its_pipeline(folder_of: Callable[[str], Path], family: str, steps: int) -> None:
    pipe = quiet(diffusers.AutoPipelineForText2Image.from_pretrained(folder_of(family)))
    theirs = pipe(
        PROMPTS, num_inference_steps=steps, guidance_scale=0.0, generator=generator(), output_type="pt"
    ).images
    model: Any = load_model(ModelConfig(path=str(folder_of(family))), "cpu")
    operator = Boomerang(t_boom=1, steps=steps, solver="euler", spacing="model")
    noise: Any = Drawn()
    with torch.inference_mode():  # theirs starts at σ·ε, as ours: no rescaling
        ours = operator(model, torch.zeros(2, *model.shape), GIVEN, noise).pixels.clamp(-1, 1)
    error = apart(ours, theirs)
    assert_parity(float(error))


@every_turbo
@pytest.mark.parametrize("steps", [2, 4])
def test_turbo_edits_as_its_pipeline(folder_of: Callable[[str], Path], family: str, steps: int) -> None:
    """At 2 steps and strength 0.5 a single one is taken."""
    pixels, folder = images(), folder_of(family)
    pipe = quiet(diffusers.AutoPipelineForImage2Image.from_pretrained(folder))
    model: Any = load_model(ModelConfig(path=str(folder)), "cpu")
    with torch.inference_mode():
        start_from(pipe, model.encode(pixels))
    theirs = pipe(
        PROMPTS, image=pixels, num_inference_steps=steps, strength=0.5, guidance_scale=0.0, generator=generator(),
        output_type="pt",
    ).images  # fmt: skip
    operator = SDEdit(t0=0.5, steps=steps // 2, solver="euler", spacing="model")
    error = apart(edited(model, operator, pixels), theirs)
    assert_parity(float(error))


# --- parts ---


def test_the_boundary_is_that_of_the_scheduler() -> None:
    scheduler = diffusers.LCMScheduler(timestep_scaling=7.0)
    for t in (0, 1, 19, 999):
        found = boundary(torch.tensor(t * 7.0, dtype=torch.float64))
        assert tuple(map(float, found)) == pytest.approx(scheduler.get_scalings_for_boundary_condition_discrete(t))


def test_a_consistency_function_is_the_identity_at_0(lcm: Any) -> None:
    """At the lowest level the estimate is what the network would see; far above it, what it estimates."""
    assert isinstance(lcm, Consistency)
    x = torch.randn(2, 4, 16, 16, generator=generator())
    lowest, high = (lcm.levels.sigma(torch.full((2,), u, dtype=torch.float64)) for u in (0.001, 0.5))
    with torch.inference_mode():
        torch.testing.assert_close(lcm.denoiser(PROMPTS)(x, lowest), x * lcm.levels.scale(lowest)[0].item())
        plain = Backbone.denoiser(lcm, PROMPTS)
        torch.testing.assert_close(lcm.denoiser(PROMPTS)(x, high), plain(x, high), rtol=1e-6, atol=1e-6)
        assert (plain(x, lowest) - x).abs().max() > 1e-3


@pytest.mark.parametrize("width", [24, 25, 256])
def test_guidance_is_told_as_lcm_tells_it(folder_of: Callable[[str], Path], width: int) -> None:
    pipe: Any = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder_of("lcm"), safety_checker=None)
    expected = pipe.get_guidance_scale_embedding(torch.tensor([7.5]), width)[0]
    torch.testing.assert_close(guidance_embedding(8.5, width), expected, rtol=0, atol=1e-6)


def test_a_model_that_takes_no_guidance_says_so(folder_of: Callable[[str], Path]) -> None:
    config = ModelConfig(path=str(folder_of("lcm_lora")), distilled_guidance=2.0)
    with pytest.raises(UserError, match=r"model\.distilled_guidance is 2, and .* takes no guidance"):
        load_latent(folder_of("lcm_lora"), config, "cpu")


def test_the_scheduler_makes_a_plain_network_a_consistency_function(folder_of: Callable[[str], Path]) -> None:
    names = ("lcm", "turbo", "lcm_lora")
    models = [load_latent(folder_of(name), ModelConfig(path=str(folder_of(name))), "cpu") for name in names]
    assert [type(model) for model in models] == [Consistency, Backbone, Consistency]
    assert [model.levels.spacing for model in models] == ["consistency", "trailing", "consistency"]


# --- rows ---


def test_a_batch_is_its_rows_one_by_one(lcm: Any) -> None:
    """Each at its own level, under its own prompt; and whatever else is in the batch."""
    rows: list[RowCondition] = [*PROMPTS, None]
    x = torch.randn(3, 4, 16, 16, generator=generator())
    sigma = torch.tensor([0.03, 2.0, 14.0], dtype=torch.float64)
    with torch.inference_mode():
        together = lcm.denoiser(rows)(x, sigma)
        for i in range(3):
            alone = lcm.denoiser(rows[i : i + 1])(x[i : i + 1], sigma[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
        padded = lcm.denoiser([*rows, rows[0]])(torch.cat([x, x[:1]]), torch.cat([sigma, sigma[:1]]))
        torch.testing.assert_close(padded[:3], together, rtol=1e-4, atol=1e-4)
        other = lcm.denoiser([rows[0], "a dog", None])(x, sigma)
    torch.testing.assert_close(other[[0, 2]], together[[0, 2]], rtol=1e-5, atol=1e-6)
    assert (other[1] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 2), (3.0, 4)])
def test_guidance_that_is_told_costs_no_second_call(lcm: Any, guidance: float, rows: int) -> None:
    calls: list[int] = []
    hook = lcm.network.register_forward_hook(lambda module, given, output: calls.append(len(output[0])))
    sampled(lcm, Boomerang(t_boom=1, steps=3, guidance=guidance, solver="consistency", spacing="model"))
    hook.remove()
    assert calls == [rows] * 3


def test_the_sketch_is_the_model(folder_of: Callable[[str], Path], lcm: Any) -> None:
    sketch = sketch_model(ModelConfig(path=str(folder_of("lcm"))))
    for name in ("size", "shape", "space", "conditioning", "classes", "class_names", "unconditional", "hash"):
        assert getattr(sketch, name) == getattr(lcm, name), name
    levels = (sketch.levels, lcm.levels)
    assert [(each.spacing, each.distilled, each.steps) for each in levels] == [("consistency", 50, 1000)] * 2
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert torch.equal(sketch.levels.sigma(u), lcm.levels.sigma(u))


def test_guidance_is_told_on_the_device_wherever_offloading_keeps_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer by layer: between two calls its parameters are on no device at all."""

    def away(pipe: Any, config: ModelConfig, device: str) -> Any:
        pipe.unet.to("meta")
        return pipe

    monkeypatch.setattr("pipeline.models.loading.place", away)
    model = load_latent(tiny.lcm(tmp_path / "lcm"), ModelConfig(path=str(tmp_path / "lcm")), "cpu")
    assert model.embed(PROMPTS)["timestep_cond"].device == torch.device("cpu")
