from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from tests.models.networks import MakeFolder, tiny_network


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For networks this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    def make(scheduler: Any = None, **options: Any) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        tiny_network(**options).save_pretrained(folder / "unet")
        (scheduler or DDPMScheduler()).save_pretrained(folder / "scheduler")
        return folder

    return make
