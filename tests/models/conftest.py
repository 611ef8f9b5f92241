"""Tiny networks in the diffusers layout, and no hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

SIDE = 8
MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def tiny_network(**options: Any) -> UNet2DModel:
    """Random weights, 8×8, attention in the middle."""
    torch.manual_seed(0)
    defaults = {
        "sample_size": SIDE, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 8,
        "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return UNet2DModel(**(defaults | options))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """`make_folder(scheduler, **network options)` → a model folder of its own."""

    def make(scheduler: Any = None, **options: Any) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        tiny_network(**options).save_pretrained(folder / "unet")
        (scheduler or DDPMScheduler()).save_pretrained(folder / "scheduler")
        return folder

    return make
