from pathlib import Path
from typing import Any

import pytest

import training.denoiser.export
from tests.training.toy import Configure, coloured, configuration
from training.denoiser.config import DenoiserConfig


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps for sample grids."""
    monkeypatch.setattr(training.denoiser.export, "STEPS", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return coloured(tmp_path / "data")


@pytest.fixture
def configure(data: Path, tmp_path: Path) -> Configure:
    def make(output: str = "out", **changes: Any) -> DenoiserConfig:
        return configuration(data, tmp_path / output, **changes)

    return make
