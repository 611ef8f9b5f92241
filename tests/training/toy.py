"""The toy data set that the tests train on: two colours, 8×8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.denoiser.config import DenoiserConfig

SIDE, EACH = 8, 8
COLOURS = {"blue": (20, 40, 230), "red": (220, 30, 10)}
Configure = Callable[..., DenoiserConfig]
"""`configure(output="out", **{"optimizer.lr": 0.1})`: a training of 6 steps, with changes."""


def coloured(folder: Path) -> Path:
    """A folder with two classes, blue (0) and red (1), of 8×8 images; the left half is brighter than the right."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(EACH):
            pixels = np.zeros((SIDE, SIDE, 3), np.uint8) + np.array(colour, np.uint8) // 2 + i
            pixels[:, : SIDE // 2] += 60
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def configuration(data: Path, output: Path, **changes: Any) -> DenoiserConfig:
    """A tiny training of 6 steps; `changes` like `{"optimizer.lr": 0.1}` replace keys."""
    content: dict[str, Any] = {
        "data": {"format": "folder", "path": str(data)},
        "output": str(output),
        "size": [SIDE, SIDE],
        "network": {"channels": [32], "attention": [False]},
        "diffusion": {"steps": 50},
        "optimizer": {"batch_size": 4, "warmup": 2, "bf16": False, "ema": 0.9},
        "budget": {"steps": 6},
        "seed": 5,
    }
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return DenoiserConfig.model_validate(content)
