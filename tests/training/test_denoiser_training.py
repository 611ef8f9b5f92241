"""Whole trainings, seconds long: the loss falls, and what is left behind can be used by us and by diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file

import training.denoiser.export
import training.denoiser.train
from pipeline.diffusion.levels import grid
from pipeline.diffusion.solvers import SOLVERS, integrate
from pipeline.errors import UserError
from pipeline.models.codec import LinearPatch
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.models.pixel import PixelModel
from tests.training.toy import COLOURS, Configure
from training.denoiser.checkpoint import RunState
from training.denoiser.train import train_denoiser


def load(output: Path) -> PixelModel:
    return load_model(ModelConfig(path=str(output / "model")), "cpu")


def test_the_loss_falls_and_samples_have_the_colours_of_their_class(configure: Configure) -> None:
    optimizer = {"batch_size": 16, "lr": 3e-3, "warmup": 5, "bf16": False, "ema": 0.9}
    output = train_denoiser(configure(classes=2, optimizer=optimizer, log_every=10, **{"budget.steps": 120}))
    losses = [loss for _, loss in json.loads((output / "checkpoint" / "state.json").read_text())["losses"]]
    assert len(losses) == 12
    assert losses[-1] < 0.4 * losses[0]
    model = load(output)
    labels = torch.arange(2).repeat_interleave(8)
    sigmas = grid(model.levels, model.levels.sigma(torch.ones(16)), 10, "trailing").float()
    noise = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x = sigmas[:, :1, None, None] * noise
        images = model.decode(integrate(model.denoiser(labels), x, sigmas, solver=SOLVERS["euler"]))
    blue = images[:, 2].mean((1, 2)) > images[:, 0].mean((1, 2))
    assert torch.equal(blue, labels == list(COLOURS).index("blue"))


def test_the_finished_folder_loads_here_and_in_diffusers(configure: Configure) -> None:
    output = train_denoiser(configure(classes=2, licence="cc0-1.0"))
    folder = output / "model"
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    ema = load_file(output / "checkpoint" / "state.safetensors")
    assert all(torch.equal(ema[f"ema.{name}"].half(), stored[name]) for name in stored)
    model = load(output)
    assert (model.size, model.channels, model.classes, model.null_label) == ((8, 8), 3, 2, 2)
    assert model.class_names == ("blue", "red")  # from the data
    assert (model.levels.spacing, model.levels.steps, model.prediction, model.clip) == (
        "trailing",
        50,
        "v_prediction",
        1,
    )
    assert model.denoiser(None)(torch.zeros(1, 3, 8, 8), torch.ones(1)).isfinite().all()
    theirs = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 30]), torch.tensor([0, 2])
    assert torch.equal(theirs(x, t, class_labels=labels).sample, model.network(x, t, class_labels=labels).sample)
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert scheduler.config.timestep_spacing == "trailing"
    assert not list(output.glob("*.part"))
    assert not list(output.glob("*.old"))


def test_an_unconditional_model_is_a_pipeline_of_diffusers(configure: Configure) -> None:
    output = train_denoiser(configure())
    pipe = DDPMPipeline.from_pretrained(output / "model", use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(1, num_inference_steps=2, output_type="np").images.shape == (1, 8, 8, 3)
    model = load(output)
    assert (model.classes, model.class_names, model.null_label) == (None, None, None)


def test_without_dropout_there_is_no_null_label(configure: Configure) -> None:
    model = load(train_denoiser(configure(classes=2, class_dropout=0, class_names=["b", "r"])))
    assert (model.classes, model.null_label, model.class_names) == (2, None, ("b", "r"))
    assert model.network.config["num_class_embeds"] == 2


def test_the_card_states_data_licence_configuration_and_time(configure: Configure, data: Path) -> None:
    (data / "red" / "0.png").write_bytes(b"no image")
    config = configure(licence="cc0-1.0")
    card = (train_denoiser(config) / "model" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc0-1.0\n")
    assert str(data) in card
    assert "15 images (1 rejected)" in card
    assert "steps | 6 of 4 images, 0.0 minutes" in card
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == config.model_dump(mode="json")


def test_pictures_of_samples_and_of_the_loss(configure: Configure) -> None:
    folder = train_denoiser(configure(classes=2)) / "model"
    for name in ("samples.png", "loss.png"):
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 100
            assert len(set(image.convert("L").getdata())) > 10


def test_of_many_classes_the_first_are_shown(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.denoiser.export, "ROWS", 3)
    with Image.open(train_denoiser(configure(classes=40)) / "model" / "samples.png") as image:
        assert image.height < 4 * 64


@pytest.mark.parametrize("channels", [1, 3])
def test_linear_patches_from_end_to_end(configure: Configure, channels: int) -> None:
    codec = {"kind": "linear_patch", "patch": 2, "components": 3}
    output = train_denoiser(configure(codec=codec, channels=channels, **{"budget.steps": 2}))
    model = load(output)
    assert isinstance(model.codec, LinearPatch)
    assert (model.size, model.channels, model.clip) == ((8, 8), channels, None)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    z = model.encode(pixels)
    assert z.shape == (2, 3, 4, 4)
    assert model.decode(model.denoiser(None)(z, torch.ones(2))).shape == pixels.shape


def test_space_to_depth_from_end_to_end(configure: Configure) -> None:
    codec = {"kind": "space_to_depth", "patch": 2}
    model = load(train_denoiser(configure(codec=codec, size=[8, 16], **{"budget.steps": 2})))
    assert (model.size, model.channels, model.clip) == ((8, 16), 3, 1)
    assert model.fold == 2
    assert model.encode(torch.zeros(1, 3, 8, 16)).shape == (1, 3, 8, 16)


def test_a_budget_in_minutes_ends_by_the_clock(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def tick() -> float:
        now[0] += 1
        return now[0]

    monkeypatch.setattr(training.denoiser.train, "time", SimpleNamespace(monotonic=tick))
    rates: list[float] = []
    set_lr = training.denoiser.train.set_lr

    def watched(optimizer: Any, *arguments: Any) -> None:
        set_lr(optimizer, *arguments)
        rates.append(optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(training.denoiser.train, "set_lr", watched)
    output = train_denoiser(configure(budget={"minutes": 0.25}, **{"optimizer.warmup": 0}))
    state = json.loads((output / "checkpoint" / "state.json").read_text())
    assert 15 <= state["seconds"] <= 18
    assert 4 <= state["step"] == len(rates) <= 15
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 6e-4
    assert rates[-1] < 1e-4
    train_denoiser(configure(budget={"minutes": 0.5}, **{"optimizer.warmup": 0}))
    resumed = json.loads((output / "checkpoint" / "state.json").read_text())
    assert 30 <= resumed["seconds"] <= 33
    assert resumed["step"] > state["step"]


def test_models_and_checkpoints_are_written_on_the_way(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []
    for name in ("export_model", "save_checkpoint"):
        original = getattr(training.denoiser.train, name)

        def noted(*arguments: Any, name: str = name, original: Any = original) -> None:
            written.append((name, next(a.step for a in arguments if isinstance(a, RunState))))
            original(*arguments)

        monkeypatch.setattr(training.denoiser.train, name, noted)
    train_denoiser(configure(checkpoint_minutes=0, export_minutes=0, **{"budget.steps": 2}))
    each = [("save_checkpoint", 1), ("export_model", 1), ("save_checkpoint", 2), ("export_model", 2)]
    assert written == [*each, ("save_checkpoint", 2), ("export_model", 2)]


def test_a_label_out_of_range_is_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match="a label is 1; classes is 1, so 0 to 0 are allowed"):
        train_denoiser(configure(classes=1))


def test_a_missing_label_is_refused(configure: Configure, data: Path) -> None:
    (data / "blue" / "0.png").rename(data / "loose.png")
    with pytest.raises(UserError, match="1 of 16 samples have no label, and classes is 2"):
        train_denoiser(configure(classes=2))
    train_denoiser(configure(**{"budget.steps": 1}))  # an unconditional model needs none


def test_data_without_images_are_refused(configure: Configure, data: Path) -> None:
    for file in data.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="no image could be read"):
        train_denoiser(configure())


def test_more_components_than_a_patch_has_are_refused(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"codec\.components is 13: a patch has 1 to 12"):
        train_denoiser(configure(codec={"kind": "linear_patch", "patch": 2, "components": 13}))
