"""Whole jobs on the device, and neighbours in a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.commands.demo import samples_by_key
from pipeline.config import load_config
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.hooks.augment import GenerativeAugment
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from tests.test_run import run

pytestmark = pytest.mark.gpu

FASHION = "embedded:fashion_mnist/model"
COUNT = 20


def test_two_processes_on_one_device_write_the_bytes_of_one(device: str, tmp_path: Path, model: Path) -> None:
    for number in range(3):
        builders.shard(tmp_path / "in" / f"{number}.tar", 4, first=4 * number)
    for name, devices in (("one", [device]), ("two", [device, device])):
        changes = {"run.devices": devices, "operator.t_boom": [0.2, 0.6]}
        run(builders.recipe(tmp_path / "in" / "*.tar", tmp_path / name, model, **changes))
    assert builders.tree(tmp_path / "one", "data") == builders.tree(tmp_path / "two", "data")
    assert len(builders.tree(tmp_path / "two", "data")) == 3


def demo(out: Path, device: str) -> dict[str, np.ndarray[Any, Any]]:
    """The first images of the recipe `demo`, by key."""
    changes = [f"output.path={out}", f"run.devices=['{device}']", f"limit={COUNT}", f"model.batch_size={COUNT}"]
    manifest = run_job(make_plan(load_config(JobConfig, "demo", changes)))
    assert manifest.counts.images == COUNT
    written = samples_by_key(WebDatasetInput(urls=(f"{out}/data/*.tar",)))
    return {key: decode(sample.image)[0].astype(int) for key, sample in written.items()}


def test_the_demo(device: str, tmp_path: Path) -> None:
    """The same bytes each time; images near their originals, and the CPU's, but where rounding tips a grey level."""
    first, again = demo(tmp_path / "first", device), demo(tmp_path / "again", device)
    here = again if device == "cpu" else demo(tmp_path / "cpu", "cpu")
    assert builders.tree(tmp_path / "first", "data") == builders.tree(tmp_path / "again", "data")
    originals = samples_by_key(load_config(JobConfig, "demo", []).input)
    errors = [np.square(first[key] - decode(originals[key].image)[0]).mean() for key in first]
    psnr = 10 * np.log10(255**2 / np.array(errors))
    assert 18 < psnr.mean() < 21.5  # README: 19.5 dB over all 1000
    assert psnr.min() > 11
    differences = np.abs(np.stack([first[key] - here[key] for key in first]))
    assert differences.max() <= 2
    assert (differences > 0).mean() < 0.01


def images_of(source: Path) -> Tensor:
    members = builders.members_of(source)
    pictures = [decode(content, (28, 28))[0] for name, content in sorted(members.items()) if name.endswith(".png")]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def test_neighbours_in_a_training_step_are_those_of_the_job(device: str, tmp_path: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 4)
    changes = {"run.devices": [device], "model.batch_size": 4, "operator.t_boom": [0.2, 0.5]}
    run(builders.recipe(source, tmp_path / "out", Path(FASHION), classes="numbers", **changes))
    written = images_of(tmp_path / "out" / "data" / "in.tar").to(device)
    operator = {"name": "boomerang", "t_boom": [0.2, 0.5], "steps": 2}
    augment = GenerativeAugment(operator, FASHION, p=1.0, gamma=0.8, batch_size=4, class_map="numbers")
    images, labels, keys = (
        images_of(source).to(device),
        torch.arange(4) % builders.CLASSES,
        [f"{i:04d}" for i in range(4)],
    )
    for given in (labels.to(device), labels):  # loaders often leave labels on the CPU
        near, soft = augment(images, given, keys=keys)
        assert torch.equal(near, written)
        assert (near.device, soft.device, soft.shape) == (images.device, given.device, (4, 10))
        assert torch.allclose(soft.sum(1), torch.ones(4, device=soft.device))
    floats = augment(images / 255, labels.to(device), keys=keys)[0]
    assert torch.equal((floats * 255).round().to(torch.uint8), written)
    half, _ = GenerativeAugment(operator, FASHION, p=0.5, class_map="numbers")(images, labels.to(device))
    assert half.shape == images.shape
