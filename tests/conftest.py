import gc
import os
import signal
import sys

# Before torch is imported, here or by a process that a test starts: two workers share the cores, and networks this
# small only wait for threads; modules are compiled once, not anew in every process.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs behind `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests import builders  # noqa: E402

settings.register_profile("untimed", deadline=None, max_examples=40)  # a busy machine fails no test
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional 8×8 RGB model folder with random weights; read only."""
    return builders.model_folder(tmp_path_factory.mktemp("model"))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported by now stays: each collection in a test would walk all of it again


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process for the tests of a GPU: they measure its memory and its time."""
    return 0 if config.option.markexpr == "gpu" else None


@pytest.fixture(autouse=True)
def _no_salt_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOPPEL_SALT", raising=False)
