"""The face model beside others: what its neighbours of unseen people look like, and whether they are still found.

    python scripts/evidence_face_model.py NAME=MODEL …       # from a checkout beside the shared data

For each model and level: images in which a face is found, distance of the eyes from the source's in eye distances, PSNR
and FID at 64 × 64, and how often a second photograph of the person is found first by each recogniser that is there. FID
is taken on the features of the recogniser `small` of whole images, between neighbours and all photographs of LFW's
held-out people.
Writes scripts/evidence/face_model.json and .png, which shows what was made and no photograph.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.anonymity.attacks import utility
from pipeline.anonymity.attacks.identification import rates, reidentify
from pipeline.anonymity.attacks.photos import Pairing
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.embedder import SmallEmbedder
from pipeline.anonymity.faces.recognise import available, load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import FaceTable, joined, tabulate
from pipeline.diffusion.noise import KeyedNoise
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.report.sheet import contact_sheet
from pipeline.streams.shards import WebDatasetInput
from training.metrics import fid

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).parent / "evidence"
DEV = str(ROOT.parent / "shared" / "data" / "lfw" / "dev-*.tar")
FIT, IDENTITY, STEPS, BATCH, SHOWN, SMALL = "centre 128", "json:identity", 20, 32, 12, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--levels", nargs="+", type=float, default=[0.6, 0.8, 0.9])
    parser.add_argument("--people", type=int, default=160)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    finder, space = FaceFinder("dlib", workers=2), SmallEmbedder.load()
    judges = [load_recogniser(name) for name in ("Dlib", "faceres") if available(name)]
    file = OUT / "face_model.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    sheet = []

    def table(images: list[Any], keys: list[str], people: list[str | None]) -> FaceTable:
        chunks = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        return joined([tabulate(images[c], keys[c], people[c], finder, judges) for c in chunks])

    for name, path in (model.split("=", 1) for model in args.models):
        model = load_model(ModelConfig(path=path), "cpu")
        first, rest = photographs(model.size, args.people)
        everyone = [*first, *rest]
        keys, people, images = ([row[i] for row in everyone] for i in range(3))
        originals, real = table(images, keys, people), features(space, images)
        sources, rows = images[: len(first)], dict[str, Any]()
        for level in args.levels:
            started = time.monotonic()
            made = neighbours(model, Boomerang(t_boom=level, steps=STEPS), sources, keys)
            seconds = time.monotonic() - started
            pairing = Pairing(originals=originals, released=table(made, keys[: len(made)], [None] * len(made)),
                              source=np.arange(len(made)))  # fmt: skip
            pose = utility.pose_error(pairing)
            found = {judge.name: rates(reidentify(pairing, judge.name, "naive", "T1")) for judge in judges}
            rows[str(level)] = {
                "faces_found": utility.detector_recall(pairing).with_face,
                "eyes": pose and pose.eyes.model_dump(), "images_per_second": round(len(made) / seconds, 2),
                "psnr_64": mean([utility.psnr(small(a), small(b)) for a, b in zip(made, sources, strict=True)]),
                "fid_small": round(fid(real, features(space, made)), 3),
                "rank_1_of_a_second_photograph": {
                    name: rate and rate.rank["1"].model_dump() for name, rate in found.items()
                },
            }  # fmt: skip
            sheet.append((f"{name}, {level}", [small(image, 128) for image in made[:SHOWN]]))
            print(name, level, json.dumps(rows[str(level)]), flush=True)
        results[name] = {"people": len(first), "gallery": len(rest), "steps": STEPS, "levels": rows}
        results["machine"] = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, no GPU"
        file.write_text(json.dumps(results, indent=1) + "\n")
    contact_sheet(sheet, cell=96).save(OUT / "face_model.png")


def photographs(size: tuple[int, int], people: int) -> tuple[list[Any], list[Any]]:
    """(key, person, image) of one photograph each of people who have two; and of their second ones and all others."""
    of: dict[str, list[Any]] = {}
    for key, who, image in image_stream(WebDatasetInput(urls=(DEV,)), size, PixelRules(fit=FIT), IDENTITY):
        of.setdefault(str(who), []).append((key, who, image))
    several = [who for who, rows in of.items() if len(rows) > 1][:people]
    others = [rows[0] for who, rows in of.items() if who not in several]
    return [of[who][0] for who in several], [of[who][1] for who in several] + others


@torch.inference_mode()
def neighbours(model: Any, operator: Boomerang, sources: list[Any], keys: list[str]) -> list[Any]:
    images: list[Any] = []
    for i in range(0, len(sources), BATCH):
        pixels = to_pixels(sources[i : i + BATCH], "cpu")
        noise = KeyedNoise(b"the salt of the evidence", keys[i : i + len(pixels)], operator.name, 0)
        images += list(from_pixels(operator(model, model.encode(pixels), Given(pixels=pixels), noise).pixels))
    return images


def features(space: SmallEmbedder, images: list[Any]) -> torch.Tensor:
    return torch.from_numpy(space.embed([small(image) for image in images]))


def small(image: Any, side: int = SMALL) -> Any:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 3)


if __name__ == "__main__":
    main()
