from pathlib import Path

import pytest

from tests import builders


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional 8×8 RGB model folder with random weights; read only."""
    return builders.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _no_salt_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOPPEL_SALT", raising=False)
