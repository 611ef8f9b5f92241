"""The GPU's training recipe against the one that made the embedded CIFAR-10 denoiser, at equal images seen, on a CPU.

    python scripts/gpu/compare_recipes.py runs/recipes --minutes 1 12      # two cores, nothing beside: 45 minutes

Both see batches of 64. The measure is the loss on 512 images of train-00009, which neither is trained on, t uniform:
the one that the older recipe trains for. `train_cifar10` runs as it did then (commit 8be0d04: no `zero_init`).
The new recipe trains for the given minutes, the other for as many images. Writes scripts/evidence/gpu/recipes.json
and recipes.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from record import ROOT, machine

from pipeline.config import load_config
from training.denoiser import train_denoiser
from training.denoiser_config import DenoiserConfig

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


def draw(found: list[dict[str, Any]], file: Path) -> None:
    figure = Figure(figsize=(4.2 * len(found), 3.2), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for name in RECIPES:
            axes.plot(*zip(*one[name]["curve"], strict=True), label=one[name]["recipe"])
        title = f"{one['minutes']:g} min. of the new one, two cores"
        axes.set(xlabel="images seen", ylabel="loss on unseen images", title=title)
        axes.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0])
    args = parser.parse_args()
    found = [compare(args.folder, minutes) for minutes in args.minutes]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "recipes.json").write_text(json.dumps({"machine": machine(), "runs": found}, indent=1) + "\n")
    draw(found, RESULTS / "recipes.png")
    for one in found:
        ends = {name: one[name]["curve"][-1][1] for name in RECIPES}
        print(f"{one['images']} images: new {ends['new']}, present {ends['present']}")


if __name__ == "__main__":
    main()
