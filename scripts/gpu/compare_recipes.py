"""The GPU's training recipe against the one that made the embedded CIFAR-10 denoiser, at equal images seen, on a CPU.

    OMP_NUM_THREADS=1 python scripts/gpu/compare_recipes.py runs/recipes --minutes 1 15      # 30 minutes

Both see batches of 64. The measure is the loss on 512 images of train-00009, which neither is trained on, t uniform:
the one that the older recipe trains for. `train_cifar10` runs as it did then (commit 8be0d04: no `zero_init`).
The new recipe trains for the given minutes, the other for as many images. The embedded model itself is measured, too.
Writes scripts/evidence/gpu/recipes.json and recipes.png.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from record import ROOT, machine

from pipeline.assets import resolve
from pipeline.config import load_config
from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.models.codec import load_codec
from pipeline.models.pixel import load_network
from training.data.cache import build_cache
from training.denoiser.config import DenoiserConfig
from training.denoiser.held_out import open_validation
from training.denoiser.network import build_scheduler
from training.denoiser.train import train_denoiser

EMBEDDED = "embedded:cifar10/model"
RESULTS = ROOT / "scripts" / "evidence" / "gpu"
BATCH = 64
COMMON = ["optimizer.batch_size=64", "log_every=8", "export_minutes=1000", "checkpoint_minutes=1000"]
HELD_OUT = "validation={format: webdataset, urls: runs/cifar10/train-00009.tar}"
RECIPES: dict[str, tuple[str, list[str]]] = {
    "new": ("train_cifar10_gpu", ["optimizer.warmup=40", "compile=false"]),
    "present": ("train_cifar10", [HELD_OUT, "network.zero_init=false"]),
}
"""Recipe, and what is set for a CPU or for a fair comparison."""


def train(name: str, output: Path, budget: dict[str, float]) -> dict[str, Any]:
    recipe, own = RECIPES[name]
    settings = [*COMMON, *own, f"output={output}", f"budget={json.dumps(budget)}"]
    train_denoiser(load_config(DenoiserConfig, recipe, settings), overwrite=True)
    log = json.loads((output / "training.json").read_text())
    curve = [(BATCH * step, round(loss, 4)) for step, loss in log["validation"]]
    return {"recipe": recipe, "set": own, "steps": log["step"], "seconds": round(log["seconds"], 1), "curve": curve}


def compare(folder: Path, minutes: float) -> dict[str, Any]:
    new = train("new", folder / f"new-{minutes:g}", {"minutes": minutes})
    present = train("present", folder / f"present-{minutes:g}", {"steps": new["steps"]})
    return {"minutes": minutes, "images": BATCH * new["steps"], "new": new, "present": present}


def embedded(folder: Path) -> dict[str, float]:
    """The loss of the model that ships with doppel, on the same images, and how many it had seen."""
    recipe, own = RECIPES["present"]
    config = load_config(DenoiserConfig, recipe, [*own, f"output={folder / 'embedded'}"])
    cache = build_cache(config.data, folder / "embedded" / "cache", config.size, config.rules)
    model, cpu = Path(resolve(EMBEDDED)), torch.device("cpu")
    levels = levels_from_scheduler(build_scheduler(config).config)
    held_out = open_validation(config, cache, load_codec(model), levels, cpu)
    assert held_out is not None
    loss = held_out.loss(load_network(model / "unet", torch.float32).eval())
    steps, batch = re.search(r"\| steps \| (\d+) of (\d+) images", (model / "README.md").read_text()).groups()  # type: ignore[union-attr]
    return {"images": int(steps) * int(batch), "loss": round(loss, 4)}


def draw(found: list[dict[str, Any]], file: Path) -> None:
    figure = Figure(figsize=(4.2 * len(found), 3.2), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for name in RECIPES:
            axes.plot(*zip(*one[name]["curve"], strict=True), label=one[name]["recipe"])
        title = f"{one['minutes']:g} min. of the new one"
        axes.set(xlabel="images seen", ylabel="loss on unseen images", title=title)
        axes.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, nargs="*", default=[], help="none: only the embedded model, anew")
    args = parser.parse_args()
    file = RESULTS / "recipes.json"
    found = [compare(args.folder, minutes) for minutes in args.minutes] or json.loads(file.read_text())["runs"]
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine(), "runs": found, "embedded": embedded(args.folder)}
    file.write_text(json.dumps(content, indent=1) + "\n")
    draw(found, RESULTS / "recipes.png")
    for one in found:
        ends = {name: one[name]["curve"][-1][1] for name in RECIPES}
        print(f"{one['images']} images: new {ends['new']}, present {ends['present']}")


if __name__ == "__main__":
    main()
