"""The recipe `train_lfw_faces_gpu`, the face model, for as long as the box lasts.

    python scripts/gpu/faces.py FOLDER --seconds 540                      # leaves FOLDER/faces.json, .png, .tar.00 …
    python scripts/gpu/faces.py FOLDER --name fine --set codec.patch=4    # another shape of it beside the first

The photographs are `lfw_train.tar` and `lfw_validation.tar` of DOPPEL_GPU_DATA, which `--pack FOLDER` makes from the
shared ones. Each is seen in four ways, cut out straight and with small shifts, turns and zooms, as 7,905 photographs
are few. The tar of the model comes in pieces (`cat NAME.tar.* > NAME.tar`): what comes back from a lent machine is
limited.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from cases import clock
from PIL import Image
from record import ROOT, Record
from train import FINISHING, SETTING_UP, picture

from pipeline.config import load_config
from training.denoiser.config import DenoiserConfig
from training.denoiser.export import LOG
from training.denoiser.train import train_denoiser

RECIPE = "train_lfw_faces_gpu"
KEPT, SIDE = 144, 128
"""Pixels of what is packed, around the centre, and of what is trained on."""
WAYS, SHIFT, TURN, ZOOM = 4, 4.0, 4.0, 0.06
"""Times that a photograph is cut out, and the limits of pixels, degrees and scale, from the second time on."""
PIECE = 15_000_000
VALIDATION = 500
REHEARSAL: dict[str, Any] = {
    "network": {"channels": [32, 32], "attention": [False, False]}, "compile": False, "log_every": 2,
    "optimizer": {"batch_size": 16, "warmup": 2}, "budget": {"steps": 4, "minutes": None},
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--name", default="faces", help="of what is left in FOLDER")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--pack", action="store_true", help="only put the photographs into FOLDER, to be carried")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    if args.pack:
        pack_photographs(ROOT.parent / "shared" / "data" / "lfw", args.folder)
        return 0
    left = clock(args.seconds)
    args.folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.gettempdir()) / "doppel-gpu-work" / args.name
    source = Path(os.environ.get("DOPPEL_GPU_DATA", ".gpu/data"))
    crop(source / "lfw_train.tar", work / "train-0.tar", WAYS, 40 if args.rehearse else None)
    crop(source / "lfw_validation.tar", work / "validation.tar", 1, 40 if args.rehearse else None)
    config = configured(work, args.set, REHEARSAL if args.rehearse else {})
    if not args.rehearse:
        minutes = max(left() - SETTING_UP - FINISHING, 1.0) / 60
        config = config.model_copy(update={"budget": config.budget.model_copy(update={"minutes": minutes})})
    record = Record.open(args.folder, args.name, rehearsal=args.rehearse)

    def keep(output: Path) -> None:
        pieces(output / "model", args.folder, args.name)
        picture(output / "model").save(args.folder / f"{args.name}.png")
        log = json.loads((output / LOG).read_text())
        record.results |= {
            "recipe": RECIPE, "set": args.set, "images_seen": log["step"] * config.optimizer.batch_size,
            "training_seconds": round(log["seconds"], 1), "losses": log["losses"], "validation": log["validation"],
        }  # fmt: skip
        record.save(args.folder)

    train_denoiser(config, overwrite=True, exported=keep)
    record.status = "done"
    record.save(args.folder)
    print(args.name, {k: v for k, v in record.results.items() if k not in ("losses", "validation")})
    return 0


def configured(work: Path, settings: list[str], changes: dict[str, Any]) -> DenoiserConfig:
    content = load_config(DenoiserConfig, RECIPE, settings).model_dump() | {"output": str(work / "denoiser")}
    content["data"]["urls"], content["validation"]["urls"] = [f"{work}/train-0.tar"], [f"{work}/validation.tar"]
    for name, value in changes.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    return DenoiserConfig.model_validate(content)


def photographs(file: Path) -> Iterator[tuple[str, Image.Image]]:
    with tarfile.open(file) as tar:
        for member in tar:
            key, _, extension = member.name.rpartition(".")
            if extension in ("jpg", "webp") and (content := tar.extractfile(member)) is not None:
                yield key, Image.open(io.BytesIO(content.read())).convert("RGB")


def pack_photographs(shared: Path, folder: Path) -> None:
    """The centres of the training people's photographs, and of some held-out ones, small enough to travel."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern, limit in (("train", "train-*.tar", None), ("validation", "dev-00000.tar", VALIDATION)):
        found = (row for file in sorted(shared.glob(pattern)) for row in photographs(file))
        with tarfile.open(folder / f"lfw_{name}.tar", "w") as tar:
            for number, (_, image) in enumerate(found):
                if number == limit:
                    break
                edge = (image.width - KEPT) // 2
                buffer = io.BytesIO()
                image.crop((edge, edge, edge + KEPT, edge + KEPT)).save(buffer, "WEBP", quality=92)
                add(tar, f"{number:05d}.webp", buffer.getvalue())


def crop(source: Path, target: Path, ways: int, limit: int | None) -> None:
    """Writes each photograph `ways` times, `SIDE` pixels wide; the first time straight from the centre."""
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for row, _ in zip(photographs(source), range(limit or sys.maxsize), strict=False)]

    def encoded(item: tuple[int, int]) -> tuple[str, bytes]:
        number, way = item
        key, image = rows[number]
        buffer = io.BytesIO()
        cut_out(image, way, np.random.default_rng((number, way))).save(buffer, "PNG", compress_level=1)
        return f"{key}_{way}.png", buffer.getvalue()

    started = time.monotonic()
    with tarfile.open(target, "w") as tar, ThreadPoolExecutor(16) as pool:
        for name, content in pool.map(encoded, [(n, way) for n in range(len(rows)) for way in range(ways)]):
            add(tar, name, content)
    print(f"{target.name}: {ways} × {len(rows)} photographs in {time.monotonic() - started:.0f} s", flush=True)


def cut_out(image: Image.Image, way: int, rng: np.random.Generator) -> Image.Image:
    edge = (KEPT - SIDE) // 2
    if way == 0:
        return image.crop((edge, edge, edge + SIDE, edge + SIDE))
    angle, scale = np.deg2rad(rng.uniform(-TURN, TURN)), 1 + rng.uniform(-ZOOM, ZOOM)
    dx, dy = rng.uniform(-SHIFT, SHIFT, 2)
    a, b, middle = np.cos(angle) * scale, np.sin(angle) * scale, SIDE / 2
    x, y = KEPT / 2 + dx - a * middle - b * middle, KEPT / 2 + dy + b * middle - a * middle
    return image.transform((SIDE, SIDE), Image.Transform.AFFINE, (a, b, x, -b, a, y), Image.Resampling.BICUBIC)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def pieces(model: Path, folder: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(model, "model")
    content = buffer.getvalue()
    for number, start in enumerate(range(0, len(content), PIECE)):
        (folder / f"{name}.tar.{number:02d}").write_bytes(content[start : start + PIECE])


if __name__ == "__main__":
    sys.exit(main())
