"""Tests for a machine with an accelerator: `uv run pytest -m gpu tests/gpu`. They need nothing from ../shared."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

REHEARSAL = "DOPPEL_GPU_REHEARSAL"
"""Variable that lets the tests run on the CPU: their code, not what they say."""


@pytest.fixture(scope="session")
def device() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    if os.environ.get(REHEARSAL):
        return "cpu"
    pytest.skip(f"no CUDA device is here; {REHEARSAL}=1 rehearses on the CPU")


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here, and a CPU cannot stand in for one")
    torch.cuda.init()  # memory has no figures before
    return torch.device("cuda:0")


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield
