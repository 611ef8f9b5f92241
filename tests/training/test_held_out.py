"""The loss on images that are not trained on: a known answer, one noise, and nothing that was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.errors import UserError
from pipeline.models.codec import SpaceToDepth
from tests.training.toy import Configure
from training.data.cache import build_cache
from training.denoiser.config import DenoiserConfig
from training.denoiser.held_out import HeldOut, open_validation
from training.denoiser.network import build_network, build_scheduler
from training.denoiser.train import train_denoiser

CPU = torch.device("cpu")


@pytest.fixture
def unseen(tmp_path: Path) -> Path:
    """Grey images of two classes that no toy has."""
    for name, shade in (("blue", 90), ("red", 160)):
        (tmp_path / "unseen" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8), (shade + i, shade, shade)).save(tmp_path / "unseen" / name / f"v{i}.png")
    return tmp_path / "unseen"


def source(folder: Path) -> dict[str, str]:
    return {"format": "folder", "path": str(folder)}


def opened(config: DenoiserConfig) -> HeldOut:
    levels = levels_from_scheduler(build_scheduler(config).config)
    cache = build_cache(config.data, Path(config.output) / "cache", config.size, config.rules)
    held_out = open_validation(config, cache, SpaceToDepth(), levels, CPU)
    assert held_out is not None
    return held_out


class Knows(nn.Module):
    """Answers `off` beside the truth, as x0."""

    def __init__(self, held_out: HeldOut, off: float) -> None:
        super().__init__()
        self.held_out, self.off = held_out, off

    def forward(self, given: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Any:
        levels, s = self.held_out.levels, per_row(self.held_out.sigma, given)
        x0, scale = self.held_out.x0 + self.off, per_row(levels.scale(self.held_out.sigma), given)
        noise = (given / scale - x0) / s
        v = self.held_out.config.diffusion.prediction == "v_prediction"
        return SimpleNamespace(sample=scale * (noise - s * x0) if v else noise)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_the_error_of_the_image_is_weighted_alike_for_every_prediction(
    configure: Configure, unseen: Path, prediction: str
) -> None:
    config = configure(validation=source(unseen), **{"diffusion.prediction": prediction, "optimizer.bf16": False})
    held_out = opened(config)
    s = held_out.sigma
    assert held_out.loss(Knows(held_out, 0.0)) < 1e-6
    assert held_out.loss(Knows(held_out, 0.1)) == pytest.approx(0.01 * float(((1 + s**2) / s**2).mean()), rel=1e-3)


def test_it_is_one_measure_whatever_happens_between(configure: Configure, unseen: Path) -> None:
    held_out = opened(configure(validation=source(unseen), **{"network.zero_init": False}))
    network = build_network(held_out.config, SpaceToDepth())
    first = held_out.loss(network)
    torch.rand(7)
    assert held_out.loss(network) == first
    assert held_out.loss(build_network(configure(seed=6, **{"network.zero_init": False}), SpaceToDepth())) != first


def test_both_curves_are_logged_and_outlive_an_interruption(configure: Configure, unseen: Path) -> None:
    for steps in (4, 6):
        config = configure(classes=2, validation=source(unseen), log_every=2, **{"budget.steps": steps})
        output = train_denoiser(config)
    log = json.loads((output / "training.json").read_text())
    assert log["step"] == 6
    assert [step for step, _ in log["validation"]] == [step for step, _ in log["losses"]] == [2, 4, 6]
    card = (output / "model" / "README.md").read_text()
    assert f"| validation loss | {log['validation'][-1][1]:.4f} |" in card


def test_a_checkpoint_of_before_goes_on(configure: Configure, unseen: Path) -> None:
    output = train_denoiser(configure(**{"budget.steps": 2}))
    state = output / "checkpoint" / "state.json"
    content = json.loads(state.read_text())
    del content["validation"], content["identity"]["diffusion"]["lognormal"]
    state.write_text(json.dumps(content))
    train_denoiser(configure(validation=source(unseen), **{"budget.steps": 3}))
    assert json.loads(state.read_text())["step"] == 3


def test_what_is_trained_on_validates_nothing(configure: Configure, data: Path, unseen: Path) -> None:
    with pytest.raises(UserError, match="validation: 16 of 16 images are in the training set of this denoiser"):
        train_denoiser(configure(validation=source(data)))
    (unseen / "blue" / "v9.png").write_bytes((data / "red" / "0.png").read_bytes())
    with pytest.raises(UserError, match=r"validation: 1 of 11 images .* by their contents"):
        train_denoiser(configure(validation=source(unseen)))


def test_validation_images_need_labels_where_training_images_do(configure: Configure, unseen: Path) -> None:
    (unseen / "blue" / "v0.png").rename(unseen / "loose.png")
    with pytest.raises(UserError, match="validation: 1 of 10 samples have no label, and classes is 2"):
        train_denoiser(configure(classes=2, validation=source(unseen)))
