"""Stable Diffusion 3 and Flux: edits are those of diffusers, with and without T5, fixed and dynamic shifts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Img2ImgPipeline,
)
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.models.flow import positions
from tests import tiny
from tests.models.backbones import (
    SIZE,
    STEPS,
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


def scheduled(folder: Path, **options: Any) -> Path:
    rewrite(folder / "scheduler" / "scheduler_config.json", **options)
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "sd3": tiny.sd3,
    "sd3_without_t5": lambda folder: tiny.sd3(folder, t5=False),
    "sd3_dynamic": lambda folder: scheduled(tiny.sd3(folder), use_dynamic_shifting=True),
    "dev": tiny.flux,
    "schnell": lambda folder: scheduled(
        tiny.flux(folder, guidance_embeds=False), use_dynamic_shifting=False, shift=1.0
    ),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a name in `FOLDERS`, made once; read only."""
    root = tmp_path_factory.mktemp("flow")

    def made(name: str) -> Path:
        return root / name if (root / name).exists() else FOLDERS[name](root / name)

    return made


each_family = pytest.mark.parametrize("name", FOLDERS)


def edit_by_sd3(folder: Path, **call: Any) -> Tensor:
    """On the trailing grid: the pipeline's own ends at a level that is shifted twice."""
    absent = {"text_encoder_3": None, "tokenizer_3": None} if not (folder / "text_encoder_3").exists() else {}
    pipe = open_pipeline(folder, StableDiffusion3Img2ImgPipeline, **absent)
    sigmas = np.linspace(1, 1 / (2 * STEPS), 2 * STEPS)
    return edit_by_diffusers(pipe, height=SIZE[0], width=SIZE[1], sigmas=sigmas, **call)


def edit_by_flux(folder: Path, *, words: int, **call: Any) -> Tensor:
    pipe = open_pipeline(folder, FluxImg2ImgPipeline)
    return edit_by_diffusers(pipe, height=SIZE[0], width=SIZE[1], max_sequence_length=words, **call)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", ["sd3", "sd3_without_t5", "sd3_dynamic"])
def test_an_edit_by_sd3_is_that_of_diffusers(folder_of: Callable[[str], Path], name: str, guidance: float) -> None:
    folder = folder_of(name)
    assert_same(edit(load(folder), guidance=guidance), edit_by_sd3(folder, guidance_scale=guidance))


def test_a_negative_prompt_is_that_of_diffusers(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("sd3")
    other = edit_by_sd3(folder, guidance_scale=4.0, negative_prompt=["green grass"] * 2)
    assert_same(edit(load(folder), guidance={"scale": 4, "negative": "green grass"}), other)


@pytest.mark.parametrize("guidance", [None, 0.0, 2.0])
def test_an_edit_by_flux_dev_is_that_of_diffusers(folder_of: Callable[[str], Path], guidance: float | None) -> None:
    folder = folder_of("dev")
    other = edit_by_flux(folder, words=512, guidance_scale=3.5 if guidance is None else guidance)
    assert_same(edit(load(folder, distilled_guidance=guidance)), other)


def test_an_edit_by_flux_schnell_is_that_of_diffusers(folder_of: Callable[[str], Path]) -> None:
    assert_same(edit(load(folder_of("schnell"))), edit_by_flux(folder_of("schnell"), words=256))


@pytest.mark.parametrize(("name", "words"), [("dev", 512), ("schnell", 256)])
def test_guidance_of_flux_is_diffusers_true_one(folder_of: Callable[[str], Path], name: str, words: int) -> None:
    model = load(folder_of(name))
    for negative, given in (("none", ""), ("green grass", "green grass")):
        other = edit_by_flux(
            folder_of(name), words=words, true_cfg_scale=3.0, negative_prompt=[given] * 2, guidance_scale=3.5
        )
        assert_same(edit(model, guidance={"scale": 3, "negative": negative}), other)


def test_distilled_guidance_is_heard(folder_of: Callable[[str], Path]) -> None:
    by_default, same, other = (edit(load(folder_of("dev"), distilled_guidance=g)) for g in (None, 3.5, 1.0))
    assert torch.equal(by_default, same)
    assert (by_default - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sd3", "schnell"])
def test_distilled_guidance_is_refused_where_there_is_none(folder_of: Callable[[str], Path], name: str) -> None:
    with pytest.raises(UserError, match=f"distilled_guidance is 3.5, and .*{name} takes no"):
        sketch_model(ModelConfig(path=str(folder_of(name)), size=SIZE, distilled_guidance=3.5))


@each_family
def test_each_sample_is_as_if_alone(folder_of: Callable[[str], Path], name: str) -> None:
    assert_rows_are_alone(load(folder_of(name)))


@each_family
def test_the_sketch_agrees_with_the_model(folder_of: Callable[[str], Path], name: str) -> None:
    assert_sketch_agrees(load(folder_of(name)), folder_of(name))


@each_family
def test_the_network_is_called_once_a_step_and_each_text_read_once(folder_of: Callable[[str], Path], name: str) -> None:
    assert_calls_are_few(load(folder_of(name)), pipeline_of(folder_of(name)))


@each_family
def test_bfloat16(folder_of: Callable[[str], Path], name: str) -> None:
    model = load(folder_of(name), dtype="bfloat16")
    assert model.network.dtype == model.vae.dtype == torch.bfloat16
    pixels = edit(model, guidance=2)
    assert pixels.dtype == torch.float32
    assert torch.isfinite(pixels).all()
    assert (pixels - edit(load(folder_of(name)), guidance=2)).abs().mean() < 0.05


@pytest.mark.parametrize("name", ["sd3", "dev"])
def test_in_float16_the_vae_stays_in_float32(folder_of: Callable[[str], Path], name: str) -> None:
    model = load(folder_of(name), dtype="float16")
    assert (model.network.dtype, model.vae.dtype) == (torch.float16, torch.float32)


# --- sizes ---


@pytest.mark.parametrize("name", ["sd3", "dev"])
def test_sizes_are_whole_tokens(folder_of: Callable[[str], Path], name: str) -> None:
    path = str(folder_of(name))
    sketch = sketch_model(ModelConfig(path=path))
    assert sketch.size == ((32, 32) if name == "sd3" else (256, 256))  # Flux folders don't say: 128 cells
    assert sketch_model(ModelConfig(path=path, size=(48, 64))).shape == (16, 24, 32)
    with pytest.raises(UserError, match=r"model.size is 34 × 32; allowed are multiples of 4"):
        sketch_model(ModelConfig(path=path, size=(34, 32)))


def test_sd3_knows_no_larger_images_than_its_positions(folder_of: Callable[[str], Path]) -> None:
    path = str(folder_of("sd3"))
    assert sketch_model(ModelConfig(path=path, size=(32, 96))).size == (32, 96)
    with pytest.raises(UserError, match="at most 96 pixels a side"):
        sketch_model(ModelConfig(path=path, size=(32, 100)))


def test_a_dynamic_shift_follows_the_size(folder_of: Callable[[str], Path]) -> None:
    path = str(folder_of("dev"))
    small, large = (sketch_model(ModelConfig(path=path, size=size)).levels for size in ((32, 48), (256, 256)))
    assert small.shift == pytest.approx(np.exp(0.5 + 0.65 * (8 * 12 - 256) / 3840))  # type: ignore[attr-defined]
    assert large.shift == pytest.approx(np.exp(1.15))  # type: ignore[attr-defined]


def test_a_schedule_that_is_not_known_is_named(tmp_path: Path) -> None:
    folder = scheduled(tiny.flux(tmp_path / "flux"), shift_terminal=0.02)
    with pytest.raises(UserError, match=r"scheduler_config.json: .*shift_terminal is 0.02"):
        sketch_model(ModelConfig(path=str(folder), size=SIZE))


def test_positions_are_those_of_diffusers() -> None:
    theirs = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(positions(3, 5).float(), theirs)


# --- LoRA ---


def test_a_merged_lora_is_diffusers_unmerged(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    folder = folder_of("dev")
    network = FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer", local_files_only=True)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"]))
    rng = torch.Generator().manual_seed(1)
    layers = {
        name: 0.5 * torch.randn(weight.shape, generator=rng)
        for name, weight in get_peft_model_state_dict(network).items()
    }
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    reference = open_pipeline(folder, FluxImg2ImgPipeline)
    reference.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="own", local_files_only=True)
    reference.set_adapters("own", 0.7)
    other = edit_by_diffusers(reference, height=SIZE[0], width=SIZE[1], guidance_scale=3.5)
    assert_same(edit(load(folder, lora=[{"path": str(file), "scale": 0.7}])), other)
    assert (edit(load(folder)) - other).abs().max() > 1e-2
