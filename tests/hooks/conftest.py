from pathlib import Path

import pytest

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from tests import builders

COUNT, COPIES = 10, 2


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, model: Path) -> JobConfig:
    """A finished job over two shards, `0000` to `0009`, with two copies of each image; read only."""
    folder = tmp_path_factory.mktemp("job")
    builders.shard(folder / "in" / "a.tar", 6)
    builders.shard(folder / "in" / "b.tar", COUNT - 6, first=6)
    level = {"operator.copies": COPIES, "operator.t_boom": [0.2, 0.6]}
    config = validate(JobConfig, builders.recipe(folder / "in" / "*.tar", folder / "out", model, **level), "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOPPEL_SALT", raising=False)
        run_job(make_plan(config))
    return config
