"""The step *train*: the recipe `train_cifar10_gpu` for as long as the box lasts.

Leaves `train.json`, `train.png` (samples and curves) and `train.tar` (the model folder, weights in half
precision), all three new every two minutes. Where the tar is there already and the record is not `done`, training goes
on from its weights. The data are DOPPEL_GPU_DATA/cifar10_jpeg.npz, or those of ../shared/data.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import clock
from PIL import Image
from record import ROOT, Record

import training.denoiser.export
from pipeline.config import load_config
from training.data.cache import build_cache
from training.denoiser.config import DenoiserConfig
from training.denoiser.train import train_denoiser

RECIPE, TAR, PICTURE = "train_cifar10_gpu", "train.tar", "train.png"
LARGEST = 15_500_000
"""Bytes of the tar: what comes back from a lent machine is limited."""
SETTING_UP, FINISHING = 12.0, 25.0
"""Seconds of the box that are no training: caches and network before, the last export after."""
PREPARING: dict[str, Any] = {"budget": {"steps": 3}}
REHEARSAL: dict[str, Any] = {
    "network.channels": [32, 32], "network.layers": 1, "optimizer.batch_size": 32, "optimizer.warmup": 2,
    "compile": False, "log_every": 2, "budget": {"steps": 6},
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="decode the images and fill the compiler's cache only")
    args = parser.parse_args()
    left = clock(args.seconds)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.rehearse:
        with tempfile.TemporaryDirectory() as temporary:
            return step(args, left, Path(temporary))
    return step(args, left, Path(tempfile.gettempdir()) / "doppel-gpu-work")


def step(args: argparse.Namespace, left: Callable[[], float], work: Path) -> int:
    """`work`: where caches and checkpoints lie; the same for all runs on a machine, and new for each rehearsal."""
    if args.rehearse:
        training.denoiser.export.STEPS = 2
    shards(noise(work / "noise.npz") if args.rehearse else found_data(), work / "cifar10")
    config = configured(work, REHEARSAL if args.rehearse else PREPARING if args.prepare else {})
    for source, folder in ((config.data, "cache"), (config.validation, "validation")):
        assert source is not None
        build_cache(source, Path(config.output) / folder, config.size, config.rules)
    if args.prepare:
        train_denoiser(config, overwrite=True)
        return 0
    changes: dict[str, Any] = {}
    if not args.rehearse:
        changes["budget"] = {"minutes": max(left() - SETTING_UP - FINISHING, 1.0) / 60}
    if (args.folder / TAR).exists() and not args.rehearse:
        changes["start"] = str(unpacked(args.folder / TAR, work / "start"))
    config = DenoiserConfig.model_validate(config.model_dump() | changes)
    record = Record.open(args.folder, "train", rehearsal=args.rehearse)
    earlier = dict(record.results) if config.start else {}

    def keep(output: Path) -> None:
        size = pack(output / "model", args.folder / TAR)
        picture(output / "model").save(args.folder / PICTURE)
        data = "a stand-in of noise" if args.rehearse else "CIFAR-10"
        record.results |= facts(config, output, earlier) | {"data": data, "tar_bytes": size}
        record.save(args.folder)

    train_denoiser(config, overwrite=True, exported=keep)
    print(json.dumps({k: v for k, v in record.results.items() if k not in ("losses", "validation")}))
    return 0


def found_data() -> Path:
    """Raises `SystemExit` where the images are not there."""
    named = os.environ.get("DOPPEL_GPU_DATA")
    places = [*([Path(named)] if named else []), ROOT.parent / "shared" / "data" / "cifar10"]
    for place in places:
        if (place / "cifar10_jpeg.npz").exists():
            return place / "cifar10_jpeg.npz"
    raise SystemExit(f"cifar10_jpeg.npz is not in {' or '.join(map(str, places))}: name its folder DOPPEL_GPU_DATA")


def shards(source: Path, folder: Path) -> None:
    """The images as ten shards in `folder`, unless they are there."""
    if not (folder / "done").exists():
        script = ROOT / "scripts" / "cifar10_shards.py"
        subprocess.run([sys.executable, str(script), str(source), "train", str(folder), "--shards", "10"], check=True)
        (folder / "done").touch()


def noise(file: Path) -> Path:
    """A file in the layout of cifar10_jpeg.npz: 100 images of noise, ten of each class."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(100):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        encoded.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, encoded)])
    labels = np.repeat(np.arange(10, dtype=np.uint8), 10)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, train_jpeg=np.frombuffer(b"".join(encoded), np.uint8), train_offsets=offsets, train_labels=labels)
    return file


def configured(work: Path, changes: dict[str, Any]) -> DenoiserConfig:
    """The recipe on the shards of `work`, with other values by dotted name."""
    content = load_config(DenoiserConfig, RECIPE, []).model_dump()
    content["data"]["urls"] = [f"{work}/cifar10/train-0000[0-8].tar"]
    content["validation"]["urls"] = [f"{work}/cifar10/train-00009.tar"]
    content["output"] = str(work / "denoiser")
    for name, value in changes.items():
        *sections, last = name.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    return DenoiserConfig.model_validate(content)


def facts(config: DenoiserConfig, output: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """What training has come to, with what an `earlier` run of it had; curves by images seen.

    The rate includes compiling, exports and validation.
    """
    log, batch = json.loads((output / "training.json").read_text()), config.optimizer.batch_size
    before, seconds = earlier.get("images_seen", 0), earlier.get("training_seconds", 0) + log["seconds"]
    images = before + batch * log["step"]
    curves = {
        name: earlier.get(name, []) + [(before + batch * step, round(loss, 5)) for step, loss in log[name]]
        for name in ("losses", "validation")
    }
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return {
        "recipe": RECIPE, "budget_minutes": config.budget.minutes, "batch_size": batch, "images_seen": images,
        "training_seconds": round(seconds, 1), "images_per_second": round(images / seconds, 1),
        "peak_memory_gib": peak and round(peak, 2), **curves,
    }  # fmt: skip


def pack(model: Path, file: Path) -> int:
    """The model folder as one tar; returns its size. Raises `SystemExit` where it is larger than comes back."""
    part = file.with_suffix(".part")
    with tarfile.open(part, "w") as tar:
        tar.add(model, "model")
    size = part.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"the model's tar has {size} bytes; {LARGEST} are allowed")
    part.replace(file)
    return size


def unpacked(file: Path, folder: Path) -> Path:
    with tarfile.open(file) as tar:
        tar.extractall(folder, filter="data")
    return folder / "model"


def picture(model: Path) -> Image.Image:
    """Samples, and the curves below."""
    samples, curves = (Image.open(model / name).convert("RGB") for name in ("samples.png", "loss.png"))
    both = Image.new("RGB", (max(samples.width, curves.width), samples.height + curves.height), "white")
    both.paste(samples, (0, 0))
    both.paste(curves, (0, samples.height))
    return both


if __name__ == "__main__":
    sys.exit(main())
