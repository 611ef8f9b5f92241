"""A training may begin with a finished model, where its weights mean the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from tests.training.toy import Configure
from training.data.cache import PixelCache, build_cache
from training.denoiser.beginning import begin
from training.denoiser.config import DenoiserConfig
from training.denoiser.train import train_denoiser

LINEAR = {"codec": {"kind": "linear_patch", "patch": 2, "components": 4}, "diffusion.steps": 50}


def cache_of(config: DenoiserConfig) -> PixelCache:
    return build_cache(config.data, Path(config.output) / "cache", config.size, config.rules)


def test_it_begins_where_the_other_ended_with_its_codec(configure: Configure) -> None:
    first = train_denoiser(configure("first", log_every=1, **LINEAR, **{"optimizer.lr": 1e-2}))
    config = configure("second", start=str(first / "model"), seed=9, **LINEAR)
    network, codec = begin(config, cache_of(config))
    ended = begin(configure("first", start=str(first / "model"), **LINEAR), cache_of(config))[0]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), ended.parameters(), strict=True))
    assert network.conv_out.weight.abs().max() > 0  # the first training moved it away from zero
    assert torch.equal(codec.components, begin(configure("first", **LINEAR), cache_of(config))[1].components)  # type: ignore[attr-defined]
    losses = json.loads((train_denoiser(config) / "training.json").read_text())["losses"]
    assert losses[0][1] < json.loads((first / "training.json").read_text())["losses"][0][1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codec": {"kind": "none"}}, r"codec \('linear_patch', 2\); the recipe asks for \('none', 1\)"),
        ({"diffusion.prediction": "epsilon"}, "prediction v_prediction; the recipe asks for epsilon"),
        ({"diffusion.steps": 60}, "training levels 50; the recipe asks for 60"),
        ({"diffusion.schedule": "linear"}, r"σ at t/T \.1, \.5 and 1 of \["),
        ({"network.channels": [64]}, r"another network than the recipe: \d+ tensors differ"),
        (
            {"classes": 2},
            r"1 tensors differ, the first is class_embedding\.weight \(None; the",
        ),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(
    configure: Configure, changes: dict[str, Any], said: str
) -> None:
    first = train_denoiser(configure("first", **LINEAR))
    with pytest.raises(UserError, match=said):
        train_denoiser(configure("second", start=str(first / "model"), **{**LINEAR, **changes}))


def test_no_model_is_said(configure: Configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        train_denoiser(configure(start=str(tmp_path / "nowhere")))


def test_each_export_is_told(configure: Configure) -> None:
    told: list[int] = []
    config = configure(export_minutes=0, **{"budget.steps": 2})
    train_denoiser(config, exported=lambda out: told.append(json.loads((out / "training.json").read_text())["step"]))
    assert told == [1, 2, 2]
    shutil.rmtree(config.output)
