"""What a release keeps of faces, beside blur, pixelation and black boxes that hide people as well.

    python scripts/evidence_utility.py                     # 120 people of LFW's dev part; about 10 minutes on two cores
    python scripts/evidence_utility.py --people 60

Each disguise makes one image of one photograph of each person, and attackers look for the person's second photograph
among one of everybody else: naively, and with the gallery put through the same disguise ("parrot", Newton, Sweeney &
Malin 2005), by `dlib-chip` and, where the user has converted it, `faceres`; the worst of these counts. An image without
a face counts as not found by them; so pixels are compared, too, after the attacker has disguised the gallery alike
("pixels"). Blur and pixelation are as weak as they may be at the anonymity of Boomerang at `t_boom` .9: their worst
attack is no better than Boomerang's upper end (95 %).

Utility: landmarks in eye distances, head pose, faces found, PSNR, age, gender and expression (faceres and emotion), FID
in the features of `small` (128 numbers), and a classifier of "male" (what faceres says of the original: LFW has no such
label) trained on disguised photographs and tested on real ones of other people.

Figures go into scripts/evidence/utility.json; no picture is written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy.stats import beta

from pipeline.anonymity.attacks import utility
from pipeline.anonymity.attacks.features_kept import attributes_kept, landmark_error
from pipeline.anonymity.faces.deepface_recognisers import unit
from pipeline.anonymity.faces.detect import Face, FaceFinder
from pipeline.anonymity.faces.recognise import available, crops_for, load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.diffusion.noise import KeyedNoise
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.shards import WebDatasetInput
from training.metrics import fid

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "scripts" / "evidence" / "utility.json"
DEV = str(ROOT.parent / "shared" / "data" / "lfw" / "dev-*.tar")
SIZE, FIT, BATCH, STEPS = (64, 64), "centre 128", 32, 20
LEVELS = (0.6, 0.9)
"""Levels of Boomerang; the last sets the anonymity that the others must reach."""
BLURS, TILES = (2.0, 4.0, 6.0, 8.0, 12.0), (4, 8, 16, 32)
"""Radii of blur, and sides of the tiles of pixelation, in pixels, from the weakest to the strongest."""
RECOGNISERS = ("dlib-chip", "faceres")
Images = list[Any]
Disguise = Callable[[Images, Sequence[str]], Images]


class Bench:
    """Photographs of `people` people who have two, their second ones, and one of everybody else, with the faces."""

    def __init__(self, people: int, others: int) -> None:
        self.finder = FaceFinder("dlib", workers=2)
        self.recognisers = [load_recogniser(name) for name in RECOGNISERS if available(name)]
        self.small = load_recogniser("small")
        self.model = load_model(ModelConfig(path="embedded:lfw_faces/model"), "cpu")
        of: dict[str, Images] = {}
        for key, who, image in image_stream(WebDatasetInput(urls=(DEV,)), SIZE, PixelRules(fit=FIT), "json:identity"):
            of.setdefault(str(who), []).append((key, image))
        several = [images for images in of.values() if len(images) > 1][:people]
        single = [images[0] for images in of.values() if len(images) == 1][:others]
        self.keys, self.images = map(list, zip(*(images[0] for images in several), strict=True))
        self.gallery_keys, self.gallery = map(
            list, zip(*[*(images[1] for images in several), *single], strict=True)
        )  # fmt: skip
        self.faces = self.found(self.images)
        gallery_faces = self.found(self.gallery)
        self.gallery_vectors = self.vectors(gallery_faces)
        self.task = self.labelled(gallery_faces[len(self.keys) :]) if available("faceres") else None

    def found(self, images: Images) -> list[Face | None]:
        """The largest face of each image."""
        return [faces[0] if faces else None for faces in self.finder.find(images)]

    def labelled(self, others: Sequence[Face | None]) -> tuple[list[int], list[int], list[int], list[int]]:
        """Rows and labels of the photographs to learn from, and of those to test on: those with a face."""
        from pipeline.anonymity.faces.faceres import FaceRes

        judge, found = FaceRes.load(), list[list[int]]()
        for side, first in ((self.faces, 0), (others, len(self.keys))):
            seen = [face for face in side if face is not None]
            found.append([first + i for i, face in enumerate(side) if face is not None])
            found.append(judge.age_and_gender(crops_for("faceres", seen)).male.astype(int).tolist())
        return found[0], found[1], found[2], found[3]

    def vectors(self, faces: Sequence[Face | None]) -> dict[str, Any]:
        """Unit vectors `[N, D]` by recogniser; rows of NaN where there is no face."""
        there = [i for i, face in enumerate(faces) if face is not None]
        made = {}
        for one in self.recognisers:
            embedded = unit(one.embed(crops_for(one.name, [face for face in faces if face is not None])))
            made[one.name] = np.full((len(faces), embedded.shape[1]), np.nan, np.float32)
            made[one.name][there] = embedded
        return made

    def boomerang(self, level: float) -> Disguise:
        operator = Boomerang(t_boom=level, steps=STEPS)

        @torch.inference_mode()
        def through(images: Images, keys: Sequence[str]) -> Images:
            made: Images = []
            for i in range(0, len(images), BATCH):
                pixels = to_pixels(images[i : i + BATCH], "cpu")
                noise = KeyedNoise(b"the salt of the evidence", list(keys[i : i + BATCH]), operator.name, 0)
                done = operator(self.model, self.model.encode(pixels), Given(pixels=pixels), noise)
                made += list(from_pixels(done.pixels))
            return made

        return through

    def boxed(self, images: Images, keys: Sequence[str]) -> Images:
        made = []
        for image, face in zip(images, self.found(images), strict=True):
            black = image.copy()
            if face is not None:
                left, top, width, height = (round(side) for side in face.box)
                black[max(0, top) : top + height, max(0, left) : left + width] = 0
            made.append(black)
        return made


def blurred(radius: float) -> Disguise:
    return lambda images, keys: [
        np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))) for image in images
    ]


def pixelated(side: int) -> Disguise:
    def one(image: Any) -> Any:
        small = Image.fromarray(image).resize((SIZE[1] // side, SIZE[0] // side), Image.Resampling.BOX)
        return np.asarray(small.resize((SIZE[1], SIZE[0]), Image.Resampling.NEAREST))

    return lambda images, keys: [one(image) for image in images]


def rank_1(query: Any, gallery: Any) -> Any:
    """Whether row i's nearest is row i: `[N]`; a row without a face finds nobody."""
    alike = np.nan_to_num(query @ gallery.T, nan=-2.0)
    return (alike.argmax(1) == np.arange(len(query))) & np.isfinite(query[:, 0])


def attacked(bench: Bench, images: Images, faces: Sequence[Face | None], disguise: Disguise) -> dict[str, Any]:
    """Rank 1 of each attack with its interval (Clopper & Pearson), one image of each person."""
    ours, alike = bench.vectors(faces), disguise(bench.gallery, bench.gallery_keys)
    parrot = bench.vectors(bench.found(alike))
    hits = {f"naive {name}": rank_1(ours[name], bench.gallery_vectors[name]) for name in ours}
    hits |= {f"parrot {name}": rank_1(ours[name], parrot[name]) for name in ours}
    flat, rows = (np.stack(side).reshape(len(side), -1).astype(np.float32) for side in (images, alike))
    centred = [unit(side - rows.mean(0)) for side in (flat, rows)]
    hits["pixels"] = rank_1(*centred)
    return {name: share(found) for name, found in hits.items()}


def share(found: Any) -> dict[str, float]:
    hits, total = int(found.sum()), len(found)
    low = float(beta.ppf(0.025, hits, total - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, total - hits)) if hits < total else 1.0
    return {"share": hits / total, "low": low, "high": high}


def kept(bench: Bench, images: Images, ours: Sequence[Face | None]) -> dict[str, Any]:
    """What the images are still good for."""
    both = [(a, b) for a, b in zip(ours, bench.faces, strict=True) if a is not None and b is not None]
    had = sum(face is not None for face in bench.faces)
    released, sources = [a for a, _ in both], [b for _, b in both]
    landmarks = landmark_error(released, sources)
    # Whole images, so that those without a face count, too.
    features = [torch.from_numpy(bench.small.embed(side)) for side in (bench.gallery, images)]
    return {
        "faces_found": len(both) / had,
        "landmarks": landmarks.model_dump() if landmarks else None,
        "psnr": float(np.mean([min(utility.psnr(a, b), 99.0) for a, b in zip(images, bench.images, strict=True)])),
        "attributes": {name: one.model_dump() for name, one in attributes_kept(released, sources).items()
                       if not isinstance(one, str)},
        "fid of `small`": fid(*features),
        "classifier": learnt(bench, images),
    }  # fmt: skip


def learnt(bench: Bench, images: Images) -> dict[str, Any] | None:
    """Trained on the disguised photographs, tested on real ones of people who are not among them."""
    if bench.task is None:
        return None
    rows, labels, others, truths = bench.task
    real = [bench.gallery[i] for i in others]
    made = utility.task_accuracy([images[i] for i in rows], labels, real, truths)
    return made.model_dump() if made else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=120)
    parser.add_argument("--others", type=int, default=240, help="people with one photograph, in the gallery only")
    args = parser.parse_args()
    bench = Bench(args.people, args.others)
    missing = [name for name in RECOGNISERS if not available(name)]
    results: dict[str, Any] = {
        "people": len(bench.images), "gallery": len(bench.gallery), "chance": 1 / len(bench.gallery),
        "without": missing, "disguises": {},
    }  # fmt: skip
    if missing:
        print(f"without {', '.join(missing)}: not on this machine (docs/release.md says how to get it)")
    allowed = 1.0

    def tried(name: str, disguise: Disguise) -> bool:
        """Whether the disguise hides people as well as Boomerang at its last level; it is measured in either case."""
        images = disguise(bench.images, bench.keys)
        faces = bench.found(images)
        attacks = attacked(bench, images, faces, disguise)
        worst = max(attacks, key=lambda way: attacks[way]["share"])
        results["disguises"][name] = {"attacks": attacks, "worst": worst, "utility": kept(bench, images, faces)}
        EVIDENCE.write_text(json.dumps(results, indent=1) + "\n")
        print(name, worst, json.dumps(attacks[worst]), json.dumps(results["disguises"][name]["utility"]), flush=True)
        return bool(attacks[worst]["share"] <= allowed)

    tried("none", lambda images, keys: images)
    for level in LEVELS:
        tried(f"boomerang {level}", bench.boomerang(level))
    last = results["disguises"][f"boomerang {LEVELS[-1]}"]
    allowed = results["allowed"] = last["attacks"][last["worst"]]["high"]
    for kind, strengths, make in (("blur", BLURS, blurred), ("pixelation", TILES, pixelated)):
        hidden = next((s for s in strengths if tried(f"{kind} {s:g}", make(s))), None)  # type: ignore[operator]
        results.setdefault("as_anonymous", {})[kind] = hidden
    results["as_anonymous"]["black box"] = tried("black box", bench.boxed)
    EVIDENCE.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
