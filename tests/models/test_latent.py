"""Stable Diffusion 1.x, 2.x and XL: edits, inversions, LoRA and learned words are those of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.models.latent_xl import size_numbers
from pipeline.operators import DDIB, Given
from tests import tiny
from tests.models.backbones import (
    PIXELS,
    PROMPTS,
    Replayed,
    assert_calls_are_few,
    assert_rows_are_alone,
    assert_same,
    assert_sketch_agrees,
    edit,
    edit_by_diffusers,
    load,
    open_pipeline,
    pipeline_of,
    rewrite,
)


def xl_without_zeros(folder: Path) -> Path:
    tiny.sdxl(folder)
    rewrite(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    return folder


SD, XL = StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline
FOLDERS: dict[str, tuple[Callable[[Path], Path], type[Any]]] = {
    "sd": (lambda folder: tiny.sd(folder, set_alpha_to_one=True), SD),
    "sd_v": (lambda folder: tiny.sd(folder, set_alpha_to_one=True, prediction_type="v_prediction"), SD),
    "xl": (tiny.sdxl, XL),
    "xl_without_zeros": (xl_without_zeros, XL),
    "refiner": (lambda folder: tiny.sdxl(folder, refiner=True), XL),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a name in `FOLDERS`, made once; read only."""
    root = tmp_path_factory.mktemp("latent")

    def made(name: str) -> Path:
        return root / name if (root / name).exists() else FOLDERS[name][0](root / name)

    return made


each_family = pytest.mark.parametrize("name", FOLDERS)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@each_family
def test_an_edit_is_that_of_diffusers(folder_of: Callable[[str], Path], name: str, guidance: float) -> None:
    folder = folder_of(name)
    reference = open_pipeline(folder, FOLDERS[name][1])
    assert_same(edit(load(folder), guidance=guidance), edit_by_diffusers(reference, guidance_scale=guidance))


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_a_negative_prompt_is_that_of_diffusers(folder_of: Callable[[str], Path], name: str) -> None:
    """The empty one, too, which is not the same as none."""
    folder = folder_of(name)
    model, reference = load(folder), open_pipeline(folder, FOLDERS[name][1])
    for negative in ("green grass", ""):
        other = edit_by_diffusers(reference, guidance_scale=4.0, negative_prompt=[negative] * 2)
        assert_same(edit(model, guidance={"scale": 4, "negative": negative}), other)


@each_family
def test_each_sample_is_as_if_alone(folder_of: Callable[[str], Path], name: str) -> None:
    assert_rows_are_alone(load(folder_of(name)))


@each_family
def test_the_sketch_agrees_with_the_model(folder_of: Callable[[str], Path], name: str) -> None:
    assert_sketch_agrees(load(folder_of(name)), folder_of(name))


@each_family
def test_the_network_is_called_once_a_step_and_each_text_read_once(folder_of: Callable[[str], Path], name: str) -> None:
    assert_calls_are_few(load(folder_of(name)), pipeline_of(folder_of(name)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@each_family
def test_half_precision(folder_of: Callable[[str], Path], name: str, dtype: Any) -> None:
    model = load(folder_of(name), dtype=dtype)
    assert model.network.dtype == getattr(torch, dtype)
    assert model.vae.dtype == (torch.float32 if dtype == "float16" else torch.bfloat16)
    pixels = edit(model, guidance=2)
    assert pixels.dtype == torch.float32
    assert torch.isfinite(pixels).all()
    assert (pixels - edit(load(folder_of(name)), guidance=2)).abs().mean() < 0.05


def test_a_vae_that_does_not_ask_for_float32_stays_in_float16(tmp_path: Path) -> None:
    folder = tiny.sdxl(tmp_path / "xl")
    rewrite(folder / "vae" / "config.json", force_upcast=False)
    assert load(folder, dtype="float16").vae.dtype == torch.float16


# --- Stable Diffusion XL ---


def test_size_numbers() -> None:
    assert size_numbers((96, 128), "a cat", scored=False) == [96, 128, 0, 0, 96, 128]
    assert size_numbers((96, 128), None, scored=False) == [96, 128, 0, 0, 96, 128]
    assert size_numbers((96, 128), "a cat", scored=True) == [96, 128, 0, 0, 6]
    assert size_numbers((96, 128), None, scored=True) == [96, 128, 0, 0, 2.5]


@pytest.mark.parametrize("refiner", [False, True])
def test_numbers_that_the_unet_does_not_take_are_refused(tmp_path: Path, refiner: bool) -> None:
    folder = tiny.sdxl(tmp_path / "xl", refiner=refiner)
    rewrite(
        folder / "model_index.json",
        _class_name="StableDiffusionXLImg2ImgPipeline",
        requires_aesthetics_score=not refiner,
    )
    with pytest.raises(UserError, match=r"takes \d numbers .*requires_aesthetics_score"):
        load(folder)


def test_guidance_as_a_number_is_refused(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"distilled_guidance is 3.5"):
        sketch_model(ModelConfig(path=str(folder_of("xl")), distilled_guidance=3.5))


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_sizes(folder_of: Callable[[str], Path], name: str) -> None:
    path = str(folder_of(name))
    assert sketch_model(ModelConfig(path=path)).size == (32, 32)
    assert sketch_model(ModelConfig(path=path, size=(48, 64))).shape == (4, 24, 32)
    with pytest.raises(UserError, match=r"model.size is 33 × 32; allowed are multiples of 2"):
        sketch_model(ModelConfig(path=path, size=(33, 32)))


# --- inversion ---


@torch.inference_mode()
def bridge_by_diffusers(pipe: Any, guidance: float) -> Tensor:
    """Up with `PROMPTS[0]`, down with `PROMPTS[1]`, between levels 0 and 900, by its two schedulers.

    The way up asks the network for the level that the point is at. Diffusers' own loops ask for the one it goes to,
    which is no Euler step of the ODE.
    """
    options = {**pipe.scheduler.config, "steps_offset": 0}
    inverse, forward = DDIMInverseScheduler.from_config(options), DDIMScheduler.from_config(options)
    inverse.set_timesteps(10)
    forward.set_timesteps(10)
    source, target, empty = (pipe.encode_prompt(text, "cpu", 2, False)[0].double() for text in (*PROMPTS, ""))
    pipe.unet.double()
    pipe.vae.double()
    smallest = forward.alphas_cumprod[0] ** 0.5
    x = pipe.vae.encode(PIXELS.double()).latent_dist.mode() * pipe.vae.config.scaling_factor * smallest
    for below, t in zip(inverse.timesteps[:-1], inverse.timesteps[1:], strict=True):
        x = inverse.step(pipe.unet(x, below, source).sample, t, x).prev_sample
    for t in forward.timesteps[:-1]:
        output = pipe.unet(x, t, target).sample
        if guidance > 1:
            away = pipe.unet(x, t, empty).sample
            output = away + guidance * (output - away)
        x = forward.step(output, t, x).prev_sample
    return pipe.vae.decode(x / smallest / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)


def in_float64(model: Backbone) -> Backbone:
    model.network.double()
    model.vae.module.double()
    embed = lambda rows: {name: tensor.double() for name, tensor in model.embed(rows).items()}  # noqa: E731
    return replace(model, dtype=torch.float64, embed=embed)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["sd", "sd_v"])
def test_an_inversion_is_that_of_diffusers(folder_of: Callable[[str], Path], name: str, guidance: float) -> None:
    """DDIB by Euler's method between the levels that `DDIMInverseScheduler` walks through.

    In float64: so far up, these networks make 1e-4 of the rounding of float32.
    """
    source, target = PROMPTS
    bridge = DDIB(
        steps=9, solver="euler", spacing="linspace", level=0.901, source=source, target=target, guidance=guidance
    )
    model = in_float64(load(folder_of(name)))
    with torch.inference_mode():
        done = bridge(model, model.encode(PIXELS.double()), Given(), Replayed())  # type: ignore[arg-type]
    torch.testing.assert_close(model.levels.timestep(done.sigmas[0]), torch.arange(900.0, -1, -100).double())
    assert_same(done.pixels.clamp(-1, 1), bridge_by_diffusers(open_pipeline(folder_of(name), SD), guidance))


# --- LoRA and learned words ---


def lora_for(folder: Path, pipeline: type[Any], root: Path) -> Path:
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", local_files_only=True)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"]))
    layers = get_peft_model_state_dict(unet)
    rng = torch.Generator().manual_seed(1)
    layers = {name: 0.5 * torch.randn(weight.shape, generator=rng) for name, weight in layers.items()}
    pipeline.save_lora_weights(root, unet_lora_layers=layers)
    return root / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_a_merged_lora_is_diffusers_unmerged(folder_of: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    folder, pipeline = folder_of(name), FOLDERS[name][1]
    file = lora_for(folder, pipeline, tmp_path)
    reference = open_pipeline(folder, pipeline)
    reference.load_lora_weights(file.parent, weight_name=file.name, adapter_name="own", local_files_only=True)
    reference.set_adapters("own", 0.7)
    other = edit_by_diffusers(reference, guidance_scale=3.0)
    model = load(folder, lora=[{"path": str(file), "scale": 0.7}])
    assert_same(edit(model, guidance=3), other)
    plain = load(folder)
    assert (edit(plain, guidance=3) - other).abs().max() > 1e-2
    assert model.hash != plain.hash


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_learned_word_is_that_of_diffusers(folder_of: Callable[[str], Path], vectors: int, tmp_path: Path) -> None:
    file = tiny.textual_inversion(tmp_path, "<learned>", 32, vectors=vectors)
    prompts = ("a photo of <learned>", "<learned> in snow")
    reference = open_pipeline(folder_of("sd"), SD)
    reference.load_textual_inversion(file.parent, weight_name=file.name, token="<learned>", local_files_only=True)
    model = load(folder_of("sd"), textual_inversion=[{"path": str(file), "token": "<learned>"}])
    found = edit(model, guidance=3, prompts=prompts)
    assert_same(found, edit_by_diffusers(reference, prompts=prompts, guidance_scale=3.0))
    plain = load(folder_of("sd"))
    assert (edit(plain, guidance=3, prompts=prompts) - found).abs().max() > 1e-3
    assert model.hash != plain.hash


def test_slicing_of_the_vae_changes_memory_only(folder_of: Callable[[str], Path]) -> None:
    plain, sliced = load(folder_of("sd")), load(folder_of("sd"), vae={"slicing": True})
    assert plain.vae is not None
    assert sliced.vae is not None
    assert (plain.vae.at_once, sliced.vae.at_once) == (2**21 // (16 * 24), 1)
    with torch.inference_mode():
        z = sliced.encode(PIXELS)
        torch.testing.assert_close(z, plain.encode(PIXELS), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sliced.decode(z), plain.decode(z), rtol=1e-4, atol=1e-4)


def test_tiling_of_the_vae_is_diffusers(folder_of: Callable[[str], Path]) -> None:
    tiled = load(folder_of("sd"), vae={"tiling": True})
    pixels = torch.nn.functional.interpolate(PIXELS, size=(32, 48))  # larger than a tile
    pipe = open_pipeline(folder_of("sd"), SD)
    pipe.vae.enable_tiling()
    with torch.inference_mode():
        z = tiled.encode(pixels)
        assert torch.equal(tiled.decode(z), pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample)
        assert not torch.equal(load(folder_of("sd")).decode(z), tiled.decode(z))
