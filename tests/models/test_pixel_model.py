"""Model folders made by diffusers itself: what we sample from them is what diffusers samples."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.diffusion.denoisers import bounded, per_row, to_x0
from pipeline.diffusion.levels import grid, levels_from_scheduler
from pipeline.diffusion.solvers import SOLVERS, integrate
from pipeline.errors import UserError
from pipeline.models.codec import SpaceToDepth, fit_linear_patch, save_codec
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.models.folder import hash_model
from pipeline.models.pixel import PixelModel
from pipeline.models.schedule import SCHEDULERS, read_scheduler
from tests.models.networks import SIDE, MakeFolder, tiny_network

STEPS, BATCH = 8, 3


def load(folder: Path, **options: Any) -> PixelModel:
    return load_model(ModelConfig(path=str(folder), **options), "cpu")


@torch.inference_mode()
def sample(model: PixelModel, solver: str, labels: Tensor | None = None, steps: int = STEPS) -> Tensor:
    """Pixels in [-1, 1], from pure noise over the model's own grid; the noise that diffusers would draw."""
    rng = torch.Generator().manual_seed(1)
    sigmas = grid(model.levels, model.levels.sigma(torch.ones(BATCH)), steps).float()
    z = model.encode(torch.zeros(BATCH, 3, *model.size))
    x = torch.randn(z.shape, generator=rng) / per_row(model.levels.scale(sigmas[:, 0]), z)
    noise = lambda like: torch.randn(like.shape, generator=rng)  # noqa: E731
    denoiser = bounded(model.denoiser(labels), model.limit)
    return model.decode(integrate(denoiser, x, sigmas, solver=SOLVERS[solver], noise=noise)).clamp(-1, 1)


def reference(folder: Path, pipeline: type[Any], **options: Any) -> Tensor:
    """The same by a pipeline of diffusers."""
    pipe = pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(1)
    images = pipe(BATCH, generator=rng, num_inference_steps=STEPS, output_type="np", **options).images
    pixels = torch.from_numpy(images).movedim(-1, 1) * 2 - 1
    return pixels.expand(-1, 3, -1, -1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_sampling_is_that_of_diffusers(tmp_path: Path, channels: int, clip: bool, prediction: str) -> None:
    network = tiny_network(in_channels=channels, out_channels=channels)
    # 200 levels of linear betas end at σ = 2.6: numbers stay small without clipping
    options = {"clip_sample": clip, "prediction_type": prediction, "num_train_timesteps": 200}
    for name, pipeline, scheduler, solver, more in (
        ("ddpm", DDPMPipeline, DDPMScheduler(**options), "ancestral", {}),
        ("ddim", DDIMPipeline, DDIMScheduler(**options), "euler", {"use_clipped_model_output": True}),
    ):
        pipeline(unet=network, scheduler=scheduler).save_pretrained(tmp_path / name)
        model = load(tmp_path / name)
        assert (model.channels, model.classes, model.clip) == (channels, None, 1.0 if clip else None)
        expected = reference(tmp_path / name, pipeline, **more)
        assert expected.std() > 0.1
        assert (sample(model, solver) - expected).abs().max() < 1e-4


def test_labels_reach_the_network(make_folder: MakeFolder) -> None:
    """Against a loop over `UNet2DModel` and `DDIMScheduler`: no pipeline of diffusers takes labels."""
    folder = make_folder(DDIMScheduler(), num_class_embeds=4)
    network, scheduler = (
        UNet2DModel.from_pretrained(folder / "unet"),
        DDIMScheduler.from_pretrained(folder / "scheduler"),
    )
    labels = torch.tensor([2, 0, 3])
    scheduler.set_timesteps(STEPS)
    x = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for t in scheduler.timesteps:
            output = network(x, t, class_labels=labels).sample
            x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    model = load(folder)
    assert model.classes == 4
    ours = sample(model, "euler", labels)
    assert (ours - x.clamp(-1, 1)).abs().max() < 1e-4
    assert (ours - sample(model, "euler", labels.flip(0))).abs().max() > 1e-2


def test_a_batch_is_its_rows_one_by_one(make_folder: MakeFolder) -> None:
    model = load(make_folder(num_class_embeds=4))
    x, sigma = torch.randn(5, 3, SIDE, SIDE), torch.tensor([0.02, 0.5, 1.0, 4.0, 8.0])
    labels = torch.tensor([0, 3, 1, 1, 2])
    with torch.inference_mode():
        together = model.denoiser(labels)(x, sigma)
        apart = [model.denoiser(labels[i : i + 1])(x[i : i + 1], sigma[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-4)  # nothing is clipped here
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_the_trajectory_is_never_changed_in_place(make_folder: MakeFolder) -> None:
    model = load(make_folder())
    x, sigma = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 4.0])
    before = x.clone(), sigma.clone()
    model.denoiser(None)(x, sigma)
    assert torch.equal(x, before[0])
    assert torch.equal(sigma, before[1])


def test_a_learned_variance_is_left_aside(make_folder: MakeFolder) -> None:
    folder = make_folder(out_channels=6)
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    plain = make_folder(out_channels=3)
    first_half = weights | {name: weights[name][:3].contiguous() for name in ("conv_out.weight", "conv_out.bias")}
    save_file(first_half, plain / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    x, sigma = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 4.0])
    assert torch.allclose(load(folder).denoiser(None)(x, sigma), load(plain).denoiser(None)(x, sigma), atol=1e-6)


def test_a_folder_with_everything_at_its_root_loads(tmp_path: Path) -> None:
    """Like google/ddpm-cifar10-32 on the hub, whose attention layers carry the names of 2022."""
    tiny_network().save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    before = sample(load(tmp_path), "euler")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(file)
    for new, name in old.items():
        weights = {k.replace(f".{new}.", f".{name}."): v for k, v in weights.items()}
    assert any(".query." in name for name in weights)
    save_file(weights, file, {"format": "pt"})
    assert torch.equal(sample(load(tmp_path), "euler"), before)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"channels_last": True}, {"dtype": "float16"}])
def test_faster_ways_give_close_results(make_folder: MakeFolder, options: dict[str, Any]) -> None:
    folder = make_folder(DDIMScheduler(num_train_timesteps=200))
    exact, fast = sample(load(folder), "euler"), sample(load(folder, **options), "euler")
    assert fast.dtype == torch.float32
    assert (fast - exact).abs().mean() < (1e-5 if "channels_last" in options else 0.05)
    assert load(folder, **options).dtype == getattr(torch, options.get("dtype", "float32"))


@pytest.mark.parametrize("kind", ["space_to_depth", "linear_patch"])
def test_a_codec_lies_between_pixels_and_network(make_folder: MakeFolder, kind: str) -> None:
    images = torch.rand(30, 3, 2 * SIDE, 2 * SIDE) * 2 - 1
    depth = 5 if kind == "linear_patch" else 12
    codec = SpaceToDepth(patch=2) if depth == 12 else fit_linear_patch(images, patch=2, components=depth)
    folder = make_folder(in_channels=depth, out_channels=depth)
    save_codec(codec, folder)
    model = load(folder)
    assert (model.size, model.channels) == ((2 * SIDE, 2 * SIDE), 3)
    z = model.encode(images)
    if kind == "linear_patch":
        assert model.space == "latent"
        assert z.shape == (30, depth, SIDE, SIDE)
        assert torch.equal(model.decode(z), codec.decode(codec.encode(images)))
    else:  # the network folds pixels into channels; z is the image
        assert model.space == "pixel"
        assert torch.equal(z, images)
        assert torch.equal(model.decode(z), images)
    assert model.denoiser(None)(z, torch.ones(30)).shape == z.shape


def test_folding_is_the_networks_own_affair(make_folder: MakeFolder) -> None:
    """The estimate on pixels is the unfolded estimate on folded pixels."""
    folder = make_folder(in_channels=12, out_channels=12)
    save_codec(SpaceToDepth(patch=2), folder)
    model = load(folder)
    plain = replace(model, fold=1)
    x, sigma = torch.randn(2, 3, 2 * SIDE, 2 * SIDE), torch.tensor([0.5, 4.0])
    folded = plain.denoiser(None)(pixel_unshuffle(x, 2), sigma)
    assert torch.equal(model.denoiser(None)(x, sigma), pixel_shuffle(folded, 2))


def test_grey_models_see_the_luma_and_answer_in_grey(make_folder: MakeFolder) -> None:
    model = load(make_folder(in_channels=1, out_channels=1))
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    z = model.encode(pixels)
    assert torch.allclose(z[:, 0], 0.299 * pixels[:, 0] + 0.587 * pixels[:, 1] + 0.114 * pixels[:, 2], atol=1e-6)
    assert torch.equal(model.decode(z), z.repeat(1, 3, 1, 1))
    grey = pixels[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(model.decode(model.encode(grey)), grey, atol=1e-6)


def test_without_labels_the_null_label_is_taken(make_folder: MakeFolder) -> None:
    folder = make_folder(num_class_embeds=4)
    (folder / "doppel.json").write_text(json.dumps({"null_label": 3, "class_names": ["a", "b", "c"]}))
    model = load(folder)
    assert (model.classes, model.class_names) == (3, ("a", "b", "c"))
    x, sigma = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 4.0])
    none = model.denoiser(None)(x, sigma)
    assert torch.equal(none, model.denoiser(torch.tensor([3, 3]))(x, sigma))
    assert not torch.equal(none, model.denoiser(torch.tensor([0, 0]))(x, sigma))


def test_without_labels_and_null_label_there_is_no_estimate(make_folder: MakeFolder) -> None:
    model = load(make_folder(num_class_embeds=4))
    with pytest.raises(UserError, match="labels only"):
        model.denoiser(None)


def test_unconditional_models_ignore_labels(make_folder: MakeFolder) -> None:
    model = load(make_folder())
    x, sigma = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 4.0])
    assert torch.equal(model.denoiser(torch.tensor([1, 2]))(x, sigma), model.denoiser(None)(x, sigma))


SILENT = [
    (DDPMScheduler, "leading", 1.0), (DDIMScheduler, "leading", 1.0), (EulerDiscreteScheduler, "linspace", None),
    (HeunDiscreteScheduler, "linspace", None), (DPMSolverMultistepScheduler, "linspace", None),
    (FlowMatchEulerDiscreteScheduler, "trailing", None),
]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "spacing", "clip"), SILENT)
def test_a_silent_scheduler_file_means_the_defaults_of_its_class(
    make_folder: MakeFolder, scheduler: type[Any], spacing: str, clip: float | None
) -> None:
    folder = make_folder()
    file = folder / "scheduler" / "scheduler_config.json"
    # a left-over of another class counts as little for us as for diffusers
    extra = {} if "clip_sample" in read_scheduler(folder) and clip else {"clip_sample_range": 7.0}
    file.write_text(json.dumps({"_class_name": scheduler.__name__, **extra}))
    model = load(folder)
    assert (model.levels.spacing, model.clip, model.threshold) == (spacing, clip, None)
    assert model.prediction == ("flow" if scheduler is FlowMatchEulerDiscreteScheduler else "epsilon")
    whole = levels_from_scheduler({**scheduler().config, "_class_name": scheduler.__name__})
    fractions = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(model.levels.sigma(fractions), whole.sigma(fractions))


def test_options_of_another_class_do_not_count(make_folder: MakeFolder) -> None:
    folder = make_folder()
    stated = {"_class_name": "EulerDiscreteScheduler", "clip_sample": True, "thresholding": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(stated))
    model = load(folder)
    assert (model.clip, model.threshold) == (None, None)


def test_every_known_scheduler_is_one_of_diffusers(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for name in SCHEDULERS:
        getattr(diffusers, name)().save_pretrained(folder / "scheduler")
        assert load(folder).levels.steps == 1000


def test_stated_options_count(make_folder: MakeFolder) -> None:
    stated = DDPMScheduler(
        timestep_spacing="trailing", clip_sample_range=2.0, prediction_type="sample", num_train_timesteps=50
    )
    model = load(make_folder(stated))
    assert (model.levels.spacing, model.levels.steps, model.clip, model.prediction) == ("trailing", 50, 2.0, "sample")
    dynamic = load(make_folder(DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=3.0)))
    assert dynamic.threshold == (0.9, 3.0)


def test_the_estimate_is_clipped_and_only_where_the_scheduler_says_so(make_folder: MakeFolder) -> None:
    x, sigma = 20 * torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.5, 4.0])
    raw = load(make_folder(DDPMScheduler(clip_sample=False))).denoiser(None)(x, sigma)
    assert raw.abs().max() > 2
    model = load(make_folder(DDPMScheduler(clip_sample_range=2.0)))
    assert torch.equal(model.denoiser(None)(x, sigma), raw)
    assert torch.equal(model.limit(raw), raw.clamp(-2, 2))


def test_the_network_gets_its_own_time_and_scale(make_folder: MakeFolder) -> None:
    """At a level of the table, by the formulas of the papers."""
    folder = make_folder(DDPMScheduler(clip_sample=False))
    alphas_bar = DDPMScheduler().alphas_cumprod.double()
    t = torch.tensor([0, 400, 999])
    sigma = ((1 - alphas_bar) / alphas_bar).sqrt()[t]
    x0, noise = torch.randn(3, 3, SIDE, SIDE), torch.randn(3, 3, SIDE, SIDE)
    x_t = per_row(alphas_bar[t].sqrt(), x0) * x0 + per_row((1 - alphas_bar[t]).sqrt(), x0) * noise
    with torch.inference_mode():
        output = UNet2DModel.from_pretrained(folder / "unet")(x_t, t).sample
        ours = load(folder).denoiser(None)(x0 + per_row(sigma, x0) * noise, sigma)
    expected = to_x0(output, x0 + per_row(sigma, x0) * noise, sigma, "epsilon")
    assert ((ours - expected) / per_row(sigma, x0).clamp(min=1)).abs().max() < 1e-4


def test_nothing_is_ever_unpickled(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    for place, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(place, name, refuse)
    assert load(folder).size == (SIDE, SIDE)


def test_the_model_states_its_hash(make_folder: MakeFolder) -> None:
    folder = make_folder()
    assert load(folder).hash == hash_model(folder) != ""


@pytest.mark.parametrize(
    "option",
    [
        {"offload": "model"}, {"size": (16, 16)}, {"variant": "fp16"}, {"vae": {"tiling": True}},
        {"lora": [{"path": "a.safetensors"}]}, {"distilled_guidance": 3.5},
        {"textual_inversion": [{"path": "a.safetensors", "token": "a"}]},
    ],
    ids=lambda option: next(iter(option)),
)  # fmt: skip
def test_options_of_pipelines_are_refused(make_folder: MakeFolder, option: dict[str, Any]) -> None:
    folder = make_folder()
    config = ModelConfig(path=str(folder), **option)
    with pytest.raises(UserError, match=f"model.{next(iter(option))}: .* single UNet2DModel, which does not use it"):
        sketch_model(config)
    with pytest.raises(UserError, match="does not use it"):
        load_model(config, "cpu")
