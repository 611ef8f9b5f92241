from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler

from tests.models.networks import MakeFolder, tiny_network


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    def make(scheduler: Any = None, **options: Any) -> Path:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        tiny_network(**options).save_pretrained(folder / "unet")
        (scheduler or DDPMScheduler()).save_pretrained(folder / "scheduler")
        return folder

    return make
