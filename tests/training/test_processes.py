"""Two processes on the CPU: one model, one writer, one clock, and both go on from the checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.toy import Configure
from training.denoiser.config import DenoiserConfig

SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import torch
import training.denoiser.train as d, training.denoiser.export as e

torch.set_num_threads(1)
e.STEPS = 2
rank, seen = os.environ["RANK"], {"wrote": [], "began": None, "rows": [], "lr": []}

def watch(name, note):
    original = getattr(d, name)
    def watched(*arguments, **options):
        result = original(*arguments, **options)
        note(arguments, result)
        return result
    setattr(d, name, watched)

watch("save_checkpoint", lambda a, r: seen["wrote"].append("checkpoint"))
watch("export_model", lambda a, r: seen["wrote"].append("model"))
watch("load_checkpoint", lambda a, r: seen.update(network=a[2], ema=a[3], began=r[0].step if r else None))
watch("draw_batch", lambda a, r: seen["rows"].append(r[0].double().sum().item()))
watch("spent", lambda a, r: seen.update(step=a[1].step, seconds=a[1].seconds))
watch("set_lr", lambda a, r: seen["lr"].append(a[0].param_groups[0]["lr"]))
d.train_denoiser(d.DenoiserConfig.model_validate_json(Path(sys.argv[1]).read_text()))
for name in ("network", "ema"):
    state = seen[name].state_dict()
    seen[name] = hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()
Path(f"{sys.argv[2]}.{rank}").write_text(json.dumps(seen))
"""


def launch(config: DenoiserConfig, folder: Path, name: str) -> list[dict[str, object]]:
    """What each rank saw."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [*command, str(folder / "script.py"), str(folder / "config.json"), str(folder / name)],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{name}.{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_train_one_model(configure: Configure, tmp_path: Path) -> None:
    config = configure(classes=2, budget={"minutes": 0.05}, **{"optimizer.batch_size": 8, "optimizer.warmup": 0})
    first, second = launch(config, tmp_path, "first")
    assert first["wrote"] == ["checkpoint", "model"]
    assert second["wrote"] == []
    for same in ("network", "ema", "step", "lr"):
        assert first[same] == second[same], same
    assert first["rows"] != second["rows"]
    more = configure(classes=2, budget={"minutes": 0.1}, **{"optimizer.batch_size": 8, "optimizer.warmup": 0})
    again = launch(more, tmp_path, "again")
    assert again[0]["began"] == again[1]["began"] == first["step"]
    for same in ("network", "ema", "step", "lr"):
        assert again[0][same] == again[1][same], same
