from pathlib import Path

import pytest

from tests.streams.damaged import NAMES, members
from tests.streams.hub_set import made
from tests.streams.made import tar_bytes


@pytest.fixture(scope="session")
def whole() -> bytes:
    return tar_bytes(m for i, key in enumerate(NAMES) for m in members(i, key))


@pytest.fixture(scope="session")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of five rows, in row groups of two."""
    folder = tmp_path_factory.mktemp("parquet")
    for i in range(2):
        made().to_parquet(folder / f"part-{i}.parquet", batch_size=2)
    return folder
