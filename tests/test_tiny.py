"""Every tiny pipeline loads by the class that real checkpoints use, offline, and listens to its condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors import safe_open

from tests import tiny

PROMPTS = ("a photo of a cat", "a photo of a dog")

# name: (function, options, class, arguments of one short call; images are as large as the docstrings say)
CASES: dict[str, tuple[Callable[..., Path], dict[str, Any], type, dict[str, Any]]] = {
    "sd": (tiny.sd, {}, diffusers.StableDiffusionPipeline, {}),
    "sd-v": (tiny.sd, {"prediction_type": "v_prediction", "vae_scale": 4}, diffusers.StableDiffusionPipeline, {}),
    "turbo": (tiny.turbo, {}, diffusers.StableDiffusionPipeline, {"guidance_scale": 0.0}),
    "lcm": (tiny.lcm, {}, diffusers.LatentConsistencyModelPipeline, {}),
    "animatediff": (tiny.animatediff, {}, diffusers.AnimateDiffPipeline, {"num_frames": 3}),
    "upscaler": (tiny.upscaler, {}, diffusers.StableDiffusionUpscalePipeline, {"image": torch.zeros(1, 3, 16, 16)}),
    "sdxl": (tiny.sdxl, {}, diffusers.StableDiffusionXLPipeline, {}),
    "sdxl-refiner": (
        tiny.sdxl,
        {"refiner": True},
        diffusers.StableDiffusionXLImg2ImgPipeline,
        {"image": torch.zeros(1, 3, 32, 32), "strength": 0.9},
    ),
    "sd3": (tiny.sd3, {}, diffusers.StableDiffusion3Pipeline, {}),
    "sd3-without-t5": (tiny.sd3, {"t5": False}, diffusers.StableDiffusion3Pipeline, {}),
    "flux": (tiny.flux, {}, diffusers.FluxPipeline, {"height": 32, "width": 32}),
    "flux-schnell": (tiny.flux, {"guidance_embeds": False}, diffusers.FluxPipeline, {"height": 32, "width": 32}),
    "dit": (tiny.dit, {}, diffusers.DiTPipeline, {}),
    "pixart": (tiny.pixart, {}, diffusers.PixArtAlphaPipeline, {"use_resolution_binning": False}),
    "pixart-sigma": (tiny.pixart_sigma, {}, diffusers.PixArtSigmaPipeline, {"use_resolution_binning": False}),
    "deepfloyd": (tiny.deepfloyd, {}, diffusers.IFPipeline, {}),
    "deepfloyd-fixed": (tiny.deepfloyd, {"variance_type": "fixed_small"}, diffusers.IFPipeline, {}),
    "deepfloyd-upscaler": (
        tiny.deepfloyd_upscaler,
        {},
        diffusers.IFSuperResolutionPipeline,
        {"image": torch.zeros(1, 3, 16, 16)},
    ),
}
# To diffusers the T5 of Stable Diffusion 3 is not optional: who loads a folder without it must say so.
ABSENT: dict[str, dict[str, None]] = {"sd3-without-t5": {"text_encoder_3": None, "tokenizer_3": None}}
SIDES = {"sd-v": 64, "upscaler": 64, "deepfloyd": 16, "deepfloyd-fixed": 16}  # pixels; 32 for all others


def load(folder: Path, kind: Any, absent: Mapping[str, None] = MappingProxyType({})) -> Any:
    pipe = kind.from_pretrained(folder, local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, condition: str, **arguments: Any) -> torch.Tensor:
    """Two steps from the same noise, channels last; DiT takes the last word as its class."""
    if isinstance(pipe, diffusers.DiTPipeline):
        asked = {"class_labels": pipe.get_label_ids([condition.split()[-1]])}
    else:
        asked = {"prompt": condition}
    generator = torch.Generator().manual_seed(0)
    result = pipe(**asked, **arguments, num_inference_steps=2, generator=generator, output_type="np")
    return torch.as_tensor(result.frames if isinstance(pipe, diffusers.AnimateDiffPipeline) else result.images)


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_loads_and_listens_to_its_condition(name: str, tmp_path: Path) -> None:
    build, options, kind, arguments = CASES[name]
    folder = build(tmp_path / "model", **options)
    only_safetensors(folder)  # before loading, which would unpickle
    pipe = load(folder, kind, ABSENT.get(name, {}))
    with torch.no_grad():
        cat, dog = (draw(pipe, prompt, **arguments) for prompt in PROMPTS)
    side = SIDES.get(name, 32)
    assert cat.shape[-3:] == (side, side, 3)
    assert cat.isfinite().all()
    assert (cat - dog).abs().max() > 1e-4
    assert torch.equal(cat, draw(pipe, PROMPTS[0], **arguments))


def only_safetensors(folder: Path) -> None:
    kept = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kept <= {".json", ".safetensors", ".jinja"}
    assert ".safetensors" in kept


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {f"{path.relative_to(folder)}:{key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return found


def test_the_seed_alone_decides_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = weights(tiny.sd(tmp_path / "first"))
    assert torch.equal(torch.rand(1), expected), "the global generator moved"
    again, other = weights(tiny.sd(tmp_path / "again")), weights(tiny.sd(tmp_path / "other", seed=1))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_each_word_is_one_token_of_its_own_after_saving(kind: str, tmp_path: Path) -> None:
    made, loader = {
        "clip": (tiny.clip_tokenizer(), transformers.CLIPTokenizer),
        "t5": (tiny.t5_tokenizer(), transformers.T5Tokenizer),
    }[kind]
    made.save_pretrained(tmp_path)
    tokenizer = loader.from_pretrained(tmp_path, local_files_only=True)
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in tiny.WORDS]
    assert all(len(word) == 1 for word in ids)
    assert len({word[0] for word in ids}) == len(tiny.WORDS)
    assert tokenizer("a cat").input_ids != tokenizer("a zebra").input_ids != tokenizer("a xebra").input_ids
    assert tokenizer("a cat").input_ids == made("a cat").input_ids
    assert tokenizer("a cat").input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.model_max_length == tiny.CONTEXT
    assert tokenizer("a", padding="max_length").input_ids[-1] == tokenizer.pad_token_id


def test_clip_ignores_case_as_the_real_one_does() -> None:
    tokenizer = tiny.clip_tokenizer()
    assert tokenizer("A Photo of a CAT").input_ids == tokenizer("a photo of a cat").input_ids


def test_clip_tells_texts_and_images_apart(tmp_path: Path) -> None:
    tiny.clip(tmp_path)
    only_safetensors(tmp_path)
    model = transformers.CLIPModel.from_pretrained(tmp_path, local_files_only=True)
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path, local_files_only=True)
    pictures = [torch.zeros(3, 48, 40, dtype=torch.uint8), torch.full((3, 48, 40), 255, dtype=torch.uint8)]
    inputs = processor(text=list(PROMPTS), images=pictures, return_tensors="pt", padding=True)
    assert inputs.pixel_values.shape == (2, 3, 32, 32)
    with torch.no_grad():
        found = model(**inputs)
    for embeds in (found.text_embeds, found.image_embeds):
        assert embeds.shape == (2, 24)
        assert (embeds[0] - embeds[1]).abs().max() > 1e-4


def test_a_lora_file_changes_the_image(tmp_path: Path) -> None:
    folder = tiny.sd(tmp_path / "sd")
    path = tiny.lora(tmp_path / "lora", folder)
    pipe = load(folder, diffusers.StableDiffusionPipeline)
    plain = draw(pipe, PROMPTS[0])
    pipe.load_lora_weights(path.parent, weight_name=path.name, local_files_only=True)
    assert (draw(pipe, PROMPTS[0]) - plain).abs().max() > 1e-4
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe, PROMPTS[0]), plain)


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_learned_word_is_loaded_and_read(vectors: int, tmp_path: Path) -> None:
    pipe = load(tiny.sd(tmp_path / "sd"), diffusers.StableDiffusionPipeline)
    path = tiny.textual_inversion(tmp_path, "<learned>", 32, vectors=vectors)
    plain = draw(pipe, "a photo of <learned>")
    pipe.load_textual_inversion(path.parent, weight_name=path.name, local_files_only=True)
    prompt = pipe.maybe_convert_prompt("a photo of <learned>", pipe.tokenizer)
    ids = pipe.tokenizer(prompt, add_special_tokens=False).input_ids
    with safe_open(path, "pt") as file:
        learned = file.get_tensor("<learned>").reshape(vectors, 32)
    assert len(ids) == 3 + vectors
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids[-vectors:]], learned)
    assert (draw(pipe, "a photo of <learned>") - plain).abs().max() > 1e-4


def test_a_vae_scale_that_is_no_power_of_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vae_scale 3 is not a power of two"):
        tiny.sd(tmp_path, vae_scale=3)
