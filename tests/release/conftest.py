"""A signed release, and keys: mine, and a stranger's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.release.signing import new_key
from tests.finished_job import people, released
from tests.release.keys import ASSESSMENT, PKCS8, PUBLIC, SEED, SPKI, pem


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys: mine, and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "mine").write_bytes(pem("PRIVATE KEY", PKCS8 + SEED))
    (folder / "mine.pub").write_bytes(pem("PUBLIC KEY", SPKI + bytes.fromhex(PUBLIC)))
    new_key(folder / "other")
    return folder


@pytest.fixture(scope="module")
def sound(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed release; whoever changes it puts it right again."""
    return released(
        tmp_path_factory.mktemp("sound"), [people(6)], sign=str(keys / "mine"), assessment=ASSESSMENT
    )  # fmt: skip


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))
