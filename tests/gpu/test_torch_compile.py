"""`model.compile`: the images stay, and so they do when the batch size changes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.exactness import exact
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from tests import tiny
from tests.models.networks import tiny_network

pytestmark = pytest.mark.gpu

OPERATOR = Boomerang(t_boom=0.5, steps=2)  # type: ignore[arg-type]


@pytest.fixture
def compiler(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a rehearsal graphs are traced, and not compiled: gcc takes a minute for them."""
    torch.compiler.reset()
    if device == "cpu":
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def pixel(folder: Path) -> Path:
    from diffusers import DDPMScheduler

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    tiny_network(block_out_channels=(16,), num_class_embeds=3, **blocks).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


@torch.inference_mode()
@exact()
def images(model: Model, count: int, device: str) -> Tensor:
    pixels = 0.5 * torch.randn(count, 3, *model.size, generator=torch.Generator().manual_seed(0)).to(device)
    given = Given(pixels=pixels, labels=torch.arange(count, device=device) % 3)
    return OPERATOR(model, model.encode(pixels), given, KeyedNoise(b"salt", [*map(str, range(count))], "b", 0)).pixels


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("family", "counts"), [(pixel, (4, 3)), (tiny.dit, (4,))], ids=["pixel", "latent"])
def test_compiled_networks_give_the_eager_images(device: str, tmp_path: Path, family: object, counts: object) -> None:
    folder = str(family(tmp_path / "model"))  # type: ignore[operator]
    eager, compiled = (load_model(ModelConfig(path=folder, compile=on), device) for on in (False, True))
    for count in counts:  # type: ignore[attr-defined]
        wanted, made = images(eager, count, device), images(compiled, count, device)
        assert made.device == torch.device(device)
        assert float((made - wanted).abs().max()) < 1e-4  # 2e-6 on a CPU; a fused product may round otherwise
