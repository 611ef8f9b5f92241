"""Tiny networks in the diffusers layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

SIDE = 8
MakeFolder = Callable[..., Path]
"""`make_folder(scheduler, **network options)` → a model folder of its own."""


def tiny_network(**options: Any) -> UNet2DModel:
    """Random weights, 8×8, attention in the middle."""
    torch.manual_seed(0)
    defaults = {
        "sample_size": SIDE, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 8,
        "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return UNet2DModel(**(defaults | options))
