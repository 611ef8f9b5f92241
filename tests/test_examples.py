"""The examples are run as a user runs them, for a few steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "scripts" / "examples"
pytestmark = pytest.mark.slow


def run(name: str, *options: str, cwd: Path) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(re.findall(r'run\("(.*?)"', Path(__file__).read_text()))


def test_plain_pytorch(tmp_path: Path) -> None:
    printed = run("plain_pytorch.py", "--steps", "3", "--store", "neighbours", cwd=tmp_path)
    assert "step 3" in printed
    assert "state='stopped', error=None" in printed
    assert (tmp_path / "neighbours" / "store.json").exists()
    run("plain_pytorch.py", "--steps", "1", "--store", "neighbours", cwd=tmp_path)  # the same store again


@pytest.mark.skipif(find_spec("lightning") is None, reason="lightning is not installed")
def test_lightning(tmp_path: Path) -> None:
    assert re.search(r"steps 2, loss \d", run("with_lightning.py", "--steps", "2", cwd=tmp_path))


def test_hugging_face_trainer(tmp_path: Path) -> None:
    content = {
        "input": {"format": "webdataset", "urls": "embedded:fashion_mnist/sample/t10k-00000.tar.gz"},
        "model": {"path": "embedded:fashion_mnist/model"},
        "classes": "numbers",
        "operator": {"name": "boomerang", "steps": 1},
        "output": {"path": str(tmp_path / "store")},
        "run": {"devices": ["cpu"]},
    }
    run_job(make_plan(validate(JobConfig, content, "-")))
    printed = run("with_hf_trainer.py", "--steps", "4", "--store", "store", cwd=tmp_path)
    assert "steps 4" in printed
    counts = {name: int(count) for name, count in re.findall(r"'(\w+)': (\d+)", printed.splitlines()[-1])}
    assert counts["neighbours"] > 0
    assert counts["missing"] > counts["neighbours"]  # of four shards, one has neighbours
