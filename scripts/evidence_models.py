"""What the table of docs/models.md states, measured on tiny pipelines: scripts/evidence/models.json.

    python scripts/evidence_models.py            # about 15 minutes on two cores; nothing else should run beside it

operators  what `check` of each operator says of the family, with the settings below
parity     the largest difference to diffusers' own pipeline, decoded image in [-1, 1], that the parity tests measured
speed      a whole job, after its first batch, against the bare loop: images/s, median of three runs in turns
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_throughput import alone, make_photographs, steady_rate

from pipeline.config import validate
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.job.clips import check_clips
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.operators import OPERATORS, Given
from pipeline.operators.on_cascades import check, through

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "scripts" / "evidence" / "models.json"
BATCH, BATCHES, STEPS, REPEATS = 16, 6, 20, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "anagram": {"views": ["identity", "rotate_180"], "conditions": ["own", "own"]},
    "factorized": {"components": "hybrid", "conditions": ["own", "own"]},
    "compose": {"terms": [{"condition": "own"}]},
    "tile_morph": {"conditions": ["own", "own"], "tiles": 2},
    "mosaic": {"tiles": 2},
    "prompt_to_prompt": {"source": "own", "target": "own"},
}
TESTS = {
    r"test_dit_": "dit",
    r"test_pixart_": "pixart",
    r"test_lcm_|lcm_lora": "lcm",
    r"test_turbo_": "turbo",
    r"test_cascade\.py": "deepfloyd",
    r"test_video\.py": "animatediff",
    r"test_flow\.py.*(flux|dev|schnell|merged_lora)": "flux",
    r"test_flow\.py": "sd3",
    r"test_latent\.py.*(xl|refiner)": "sdxl",
    r"test_latent\.py": "sd",
}
"""Which family a parity test is about: the first whose pattern its name has."""
GIVEN: dict[str, Any] = {
    "mask": {"shape": "half"}, "guide": {"member": "png"}, "edited": "{txt}", "judge": {"path": "clip"}
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "sd": {}, "sdxl": {}, "sd3": {}, "flux": {"size": [32, 32]}, "dit": {}, "pixart": {}, "lcm": {}, "turbo": {},
    "deepfloyd": {"upscalers": ["deepfloyd_upscaler", "upscaler"]}, "animatediff": {},
}  # fmt: skip


def config_of(name: str, folder: Path) -> dict[str, Any]:
    options = dict(MODELS[name])
    if "upscalers" in options:
        options["upscalers"] = [{"path": str(folder / stage)} for stage in options["upscalers"]]
    return {"path": str(folder / name), "batch_size": BATCH, **options}


def operators(config: dict[str, Any]) -> dict[str, str]:
    """ "yes", or the reason, for each operator."""
    sketch, found = sketch_model(ModelConfig(**config)), {}
    for name, kind in OPERATORS.items():
        settings = SETTINGS.get(name, {})
        if name == "ilvr":
            settings = {"factor": 2 * max(2, sketch.size[0] // sketch.shape[-2])}
        content = recipe(config, Path("out"), "in.tar") | {"operator": {"name": name, **settings}}
        content |= {extra: GIVEN[extra] for extra in kind.model_validate(settings).needs}
        if "animatediff" in config["path"]:
            content["video"] = {}
        try:
            job = validate(JobConfig, content, "evidence")
            check(kind.model_validate(settings), sketch, None)
            check_clips(job, sketch, None)
            found[name] = "yes"
        except UserError as error:
            found[name] = str(error).split(", found {")[0]
    return found


def recipe(config: dict[str, Any], folder: Path, urls: str) -> dict[str, Any]:
    few = "lcm" in config["path"]
    return {
        "input": {"format": "webdataset", "urls": urls},
        "model": config,
        "operator": {
            "name": "boomerang", "t_boom": 0.6, "condition": "none" if "/dit" in config["path"] else "a photo of a cat",
            "steps": 4 if few else STEPS, "solver": "consistency" if few else "ancestral",
            "spacing": "model" if few else "trailing",
        },
        "output": {"path": str(folder)},
        "run": {"devices": ["cpu"]},
    }  # fmt: skip


@torch.inference_mode()
def bare_rate(config: dict[str, Any], content: dict[str, Any]) -> float:
    """Images/s of encoder, network, solver and decoder on preloaded tensors, after the first batch."""
    model = load_model(ModelConfig(**config), "cpu")
    name = content["operator"]["name"]
    operator = OPERATORS[name].model_validate(content["operator"])
    pixels = torch.zeros(BATCH, 3, *model.size)

    def once() -> None:
        noise = KeyedNoise(b"bench", [str(i) for i in range(BATCH)], name, 0)
        through(operator, model, model.encode(pixels), Given(pixels=pixels), noise)

    once()
    started = time.perf_counter()
    for _ in range(BATCHES - 1):
        once()
    return BATCH * (BATCHES - 1) / (time.perf_counter() - started)


def speed(config: dict[str, Any], root: Path) -> dict[str, float]:
    side = sketch_model(ModelConfig(**config)).size[0]
    urls = root / f"in-{side}"
    if not urls.exists():
        make_photographs(urls, 1, BATCH * BATCHES, side)
    content = recipe(config, root / "out", str(urls / "*.tar"))
    ratios, rates = [], []
    for _ in range(REPEATS):
        bare, job = alone(bare_rate, config, content), alone(steady_rate, content)
        ratios.append(job / bare)
        rates.append(job)
    return {"ratio": round(statistics.median(ratios), 3), "images_per_second": round(statistics.median(rates), 2)}


def parity() -> dict[str, dict[str, float]]:
    """The largest error of every comparison of a family, as its tests note it."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.jsonl"
        command = [sys.executable, "-m", "pytest", "-q", "tests/models"]
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"DOPPEL_PARITY_NOTES": str(notes)})
        for line in notes.read_text().splitlines():
            note = json.loads(line)
            test = note["test"].split("::")[1].split(" ")[0]
            family = next(family for pattern, family in TESTS.items() if re.search(pattern, note["test"]))
            errors = found.setdefault(family, {})
            errors[test] = max(errors.get(test, 0.0), note["error"])
    return found


def main() -> None:
    results: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, torch {torch.__version__}", "parity": parity()}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        subprocess.run([sys.executable, "-m", "tests.tiny", str(root)], cwd=ROOT, check=True)
        results["operators"] = {name: operators(config_of(name, root)) for name in MODELS}
        results["speed"] = {}
        for name in MODELS:
            if name != "animatediff":  # takes clips
                results["speed"][name] = speed(config_of(name, root), root)
                print(name, results["speed"][name], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
