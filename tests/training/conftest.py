from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import training.denoiser.export
from tests.training.toy import COLOURS, EACH, SIDE, Configure
from training.denoiser.config import DenoiserConfig


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps for sample grids."""
    monkeypatch.setattr(training.denoiser.export, "STEPS", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two classes, blue (0) and red (1), of 8×8 images; the left half is brighter than the right."""
    for name, colour in COLOURS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(EACH):
            pixels = np.zeros((SIDE, SIDE, 3), np.uint8) + np.array(colour, np.uint8) // 2 + i
            pixels[:, : SIDE // 2] += 60
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def configure(data: Path, tmp_path: Path) -> Configure:
    """`configure(output="out", **{"optimizer.lr": .1})`: a tiny training of 6 steps, with changes."""

    def make(output: str = "out", **changes: Any) -> DenoiserConfig:
        content: dict[str, Any] = {
            "data": {"format": "folder", "path": str(data)},
            "output": str(tmp_path / output),
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

    return make
