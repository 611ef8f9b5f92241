"""What anonymisation does to real faces: people of LFW's `dev` part, whom the embedded face model never saw.

    python scripts/evidence_anonymity.py                    # all; or --only levels ladder caught release

levels   distance to the source and share over the threshold at t_boom .1 … .99 (figure 5 of Boomerang, 2210.12100)
ladder   one level for all against the ladder: share released, level needed, images/s, likeness
caught   identity, DDIB and a tile shuffle through gate and attacks: all must be caught
guidance plain ladder, guidance, both and several attempts, judged by who was left out (`evidence_guidance.py`)
bound    what no attacker can do better who holds the source, by level: Monte Carlo and closed forms, no image made
release  `doppel run lfw_release` (a quarter of an hour), and the figures of its audit
attackers  networks fine-tuned, inverters trained, and the operator run by the attacker (see evidence_attackers.py)

Figures go into scripts/evidence/anonymity.json, pictures beside it; none shows an original.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence_attackers import attackers
from evidence_bound import bounds
from evidence_guidance import HELD_OUT, OTHERS, guidance
from evidence_guidance import PEOPLE as GUIDED_PEOPLE

from pipeline.anonymity.attacks import utility
from pipeline.anonymity.attacks.identification import rates, reidentify
from pipeline.anonymity.attacks.inversion import recover_permutation
from pipeline.anonymity.attacks.photos import THREATS, Pairing, layouts
from pipeline.anonymity.attacks.results import thresholds_of
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import available, load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import FaceTable, joined, tabulate
from pipeline.anonymity.gate.calibration import find_certificate
from pipeline.anonymity.gate.families import default_recognisers
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.commands.release import tally
from pipeline.config import load_config, validate
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode, from_pixels, to_pixels
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import DDIB, Boomerang, Given, Operator
from pipeline.report.audit_plots import AttackAtLevel, against_level, png
from pipeline.report.sheet import contact_sheet
from pipeline.section import Section
from pipeline.streams.job_records import Counts
from pipeline.streams.shards import WebDatasetInput

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).parent / "evidence"
DEV = str(ROOT.parent / "shared" / "data" / "lfw" / "dev-*.tar")
RECIPE = "lfw_release"
SIZE, FIT, IDENTITY, BATCH = (64, 64), "centre 128", "json:identity", 32
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
RUNS: tuple[tuple[str, float, tuple[float, ...]], ...] = (
    ("0.6, once", 0.6, ()),
    ("0.8, once", 0.8, ()),
    ("0.9, once", 0.9, ()),
    ("0.8, five times", 0.8, (0.8,) * 4),
    ("ladder 0.4 … 0.8", 0.4, (0.5, 0.6, 0.7, 0.8)),
    ("ladder 0.6 … 0.9", 0.6, (0.7, 0.8, 0.9)),
)
TRIED = 100
"""People of whom both photographs go through each of the runs."""
STEPS = 20
GATE = default_recognisers()
RECOGNISERS = (*GATE, *filter(available, ("lbph", "small")))
"""The default gate's, which has faceres where its weights are (docs/release.md says how to get them), and attackers."""


class Faces:
    """Photographs of `people` people who have two, their second photographs, and one of everybody else."""

    def __init__(self, people: int, levels: Sequence[float]) -> None:
        self.levels = levels
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
        self.finder = FaceFinder("dlib", workers=2)
        self.recognisers = [load_recogniser(name) for name in RECOGNISERS]
        self.judges = tuple(
            Judge.of(one, find_certificate(one, self.finder, SIZE), "deepface") for one in self.recognisers[: len(GATE)]
        )
        self.model = load_model(ModelConfig(path="embedded:lfw_faces/model"), "cpu")
        of: dict[str, list[tuple[str, Any]]] = {}
        for key, who, image in image_stream(WebDatasetInput(urls=(DEV,)), SIZE, PixelRules(fit=FIT), IDENTITY):
            of.setdefault(str(who), []).append((key, image))
        several = [who for who, images in of.items() if len(images) > 1][:people]
        first = [(of[who][0], who) for who in several]
        rest = [(of[who][1], who) for who in several] + [(v[0], who) for who, v in of.items() if who not in several]
        self.keys = [key for (key, _), _ in first]
        self.images = [image for (_, image), _ in first]
        everyone = [*first, *rest]
        self.originals = self.table([image for (_, image), _ in everyone], [key for (key, _), _ in everyone],
                                    [who for _, who in everyone])  # fmt: skip
        self.flat = layouts([image for (_, image), _ in everyone])

    def table(self, images: Sequence[Any], keys: Sequence[str], people: Sequence[str | None]) -> FaceTable:
        chunks = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        return joined([tabulate(images[c], keys[c], people[c], self.finder, self.recognisers) for c in chunks])

    def made(self, images: Sequence[Any]) -> FaceTable:
        return self.table(images, self.keys, [None] * len(images))

    @torch.inference_mode()
    def through(self, operator: Operator) -> list[Any]:
        images: list[Any] = []
        for i in range(0, len(self.images), BATCH):
            pixels = to_pixels(self.images[i : i + BATCH], "cpu")
            noise = KeyedNoise(b"the salt of the evidence", self.keys[i : i + BATCH], operator.name, 0)
            done = operator(self.model, self.model.encode(pixels), Given(pixels=pixels), noise)
            images += list(from_pixels(done.pixels))
        return images

    def pairing(self, images: Sequence[Any]) -> Pairing:
        made, flat = self.made(images), layouts(images)
        sides = {name: (clean, flat[name]) for name, clean in self.flat.items()}
        return Pairing(originals=self.originals, released=made, source=np.arange(len(images)), layouts=sides)

    def verdicts(self, images: Sequence[Any]) -> dict[str, int]:
        gate = Gate(finder=self.finder, judges=self.judges, originals=self.originals, smallest_face=16, near_copy=6)
        batches = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        found = [verdict for b in batches for verdict in gate.judge(self.keys[b], images[b], self.images[b])]
        return {name: sum(v.verdict == name for v in found) for name in ("anonymous", "recognisable", "undecided")}


def levels(faces: Faces) -> dict[str, Any]:
    limits = {judge.recogniser.name: judge.threshold for judge in faces.judges}
    rows = {} if faces.levels == LEVELS else json.loads((OUT / "anonymity.json").read_text())["levels"]["levels"]
    for level in faces.levels:
        started = time.monotonic()
        images = faces.through(Boomerang(t_boom=level, steps=STEPS))
        seconds = time.monotonic() - started
        pairing = faces.pairing(images)
        thresholds = thresholds_of(pairing, {r.name: r.threshold for r in faces.recognisers})
        row: dict[str, Any] = {
            "images_per_second": round(len(images) / seconds, 1),
            "faces": utility.detector_recall(pairing).model_dump(), "pose": dumped(utility.pose_error(pairing)),
            "psnr": mean([utility.psnr(a, b) for a, b in zip(images, faces.images, strict=True)]),
            "verdicts": faces.verdicts(images),
        }  # fmt: skip
        for name in RECOGNISERS:
            limit = limits.get(name, thresholds[name]["1e-2"])
            distances = to_source(pairing, name)
            over = (distances > limit).astype(float)
            row[name] = {
                "threshold": limit, "faces": len(distances), "distance": mean(distances), "se": error(distances),
                "over": mean(over), "over_se": error(over),
            }  # fmt: skip
        row["rank_1"] = ranks_of(pairing)
        rows[str(level)] = row
        print(level, json.dumps(row["Dlib"]), row["faces"]["with_face"], row["verdicts"], flush=True)
    rows = dict(sorted(rows.items(), key=lambda row: float(row[0])))
    points = {
        name: [
            AttackAtLevel(level=float(level), distance=row[name]["distance"], distance_error=row[name]["se"],
                          over=row[name]["over"], over_error=row[name]["over_se"])
            for level, row in rows.items()
        ]
        for name in RECOGNISERS
    }  # fmt: skip
    (OUT / "anonymity_levels.png").write_bytes(png(against_level(points)))
    return {"people": len(faces.keys), "gallery": len(faces.originals.keys), "steps": STEPS, "levels": rows}


def ladder(faces: Faces) -> dict[str, Any]:
    """The same images by jobs of their own: what each releases passed the same gate."""
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "in.tar"
        chosen = {named(key): i for i, key in enumerate(faces.originals.keys)}
        people = len(faces.keys)
        subset(source, {*faces.originals.keys[:TRIED], *faces.originals.keys[people : people + TRIED]})
        images = dict(zip(map(named, faces.keys), faces.images, strict=True))
        for name, first, further in RUNS:
            out = Path(scratch) / f"run-{len(results)}"
            started = time.monotonic()
            manifest = run_job(job_of(source, out, first, further))
            seconds = time.monotonic() - started  # all of it: scanning the originals, loading model and gate, too
            results[name] = compare(faces, out, manifest.counts, seconds, (first, *further), chosen, images)
            print(name, json.dumps(results[name]), flush=True)
    return results


def compare(
    faces: Faces, out: Path, counts: Counts, seconds: float, used: Sequence[float], chosen: dict[str, int],
    images: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    attempts, _, _ = tally(out)
    written = [s for shard in WebDatasetInput(urls=(f"{out}/data/*.tar",)).open().shards for s in shard.read()]
    made = {s.key: decode(s.image)[0] for s in written if isinstance(s, Sample)}
    ours = faces.table(list(made.values()), list(made), [None] * len(made))
    sources = np.array([chosen[key] for key in made])
    pairing = Pairing(originals=faces.originals, released=ours, source=sources)
    likeness = [utility.psnr(image, images[key]) for key, image in made.items() if key in images]
    return {
        "read": counts.read, "released": counts.written / counts.read,
        "mean_level": sum(used[a] * n for a, n in attempts.items()) / max(sum(attempts.values()), 1),
        "seconds": round(seconds, 1), "images_per_second": round(counts.read / seconds, 2),
        "psnr": mean(likeness), "pose": dumped(utility.pose_error(pairing)), "rank_1": ranks_of(pairing),
    }  # fmt: skip


def caught(faces: Faces) -> dict[str, Any]:
    """The same gate and the same attacks on what must not be called anonymous."""
    rng = np.random.default_rng(0)
    order = rng.permutation(16)
    made = {
        "identity": faces.images,
        "DDIB, there and back": faces.through(DDIB(source="none", target="none", steps=40)),
        "4 × 4 tiles, shuffled alike": [shuffled(image, order) for image in faces.images],
    }
    results = {}
    for name, images in made.items():
        pairing = faces.pairing(images)
        results[name] = {"verdicts": faces.verdicts(images), "rank_1": ranks_of(pairing)}
        if "tiles" in name:
            pairs = list(zip(faces.images[:20], images[:20], strict=True))
            back = [recover_permutation(pairs, SIZE[0] // 4).undo(image) for image in images]
            undone = {"verdicts": faces.verdicts(back), "rank_1": ranks_of(faces.pairing(back))}
            results[name]["after 20 known pairs"] = undone
        print(name, json.dumps(results[name]["verdicts"]), flush=True)
    return results


def bound(faces: Faces | None) -> dict[str, Any]:
    """What no attacker can do better who holds the source, by level."""
    with tempfile.TemporaryDirectory() as scratch:
        return bounds(job_of(Path(DEV), Path(scratch) / "out", 0.5, ()))


def shuffled(image: Any, order: Any) -> Any:
    side = SIZE[0] // 4
    tiles = image.reshape(4, side, 4, side, 3).swapaxes(1, 2).reshape(16, side, side, 3)[order]
    return np.ascontiguousarray(tiles.reshape(4, 4, side, side, 3).swapaxes(1, 2).reshape(*SIZE, 3))


def release(faces: Faces | None) -> dict[str, Any]:
    """The recipe as it ships, from the command line, and what its own audit says."""
    config = load_config(JobConfig, RECIPE)
    assert config.release is not None
    for folder in (config.output.path, config.release.path, config.release.audit):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pipeline.cli", "run", RECIPE]
    started = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, "DOPPEL_SALT": secrets.token_hex(32)})
    seconds = time.monotonic() - started
    draw_released(Path(config.release.path))
    manifest = json.loads((Path(config.release.path) / "RELEASE.json").read_text())
    audit = json.loads((Path(config.release.audit) / "audit.json").read_text())
    return {
        "seconds": round(seconds), "counts": manifest["counts"], "scans": manifest["scans"],
        "images_by_attempt": manifest["facts"]["images_by_attempt"],
        "matches_with_other_people": manifest["facts"]["matches_with_other_people"], "audit": audit,
    }  # fmt: skip


def draw_released(folder: Path) -> None:
    """The first faces of a release: nothing else may be shown."""
    samples = [s for shard in WebDatasetInput(urls=(f"{folder}/data/*.tar",)).open().shards for s in shard.read()]
    faces = [decode(s.image)[0] for s in samples[:36] if isinstance(s, Sample)]
    contact_sheet([("as released", faces[:12]), ("", faces[12:24]), ("", faces[24:])], cell=64).save(
        OUT / "anonymity_faces.png"
    )


def job_of(source: Path, out: Path, first: float, further: Sequence[float]) -> Any:
    os.environ["DOPPEL_SALT"] = "the salt of the evidence"
    content = {
        "input": {"format": "webdataset", "urls": str(source)},
        "model": {"path": "embedded:lfw_faces/model", "batch_size": BATCH},
        "operator": {"name": "boomerang", "t_boom": first, "steps": STEPS},
        "anonymity": {"identity": IDENTITY, "ladder": list(further)},
        "image": {"fit": FIT},
        "output": {"path": str(out)},
        "run": {"devices": ["cpu"]},
    }
    return make_plan(validate(JobConfig, content, "evidence"))


def named(full_key: str) -> str:
    """The key of a photograph without its shard: one tar holds those of all."""
    return full_key.rpartition("/")[2]


def subset(file: Path, keys: set[str]) -> None:
    """The shared photographs with these keys in one tar."""
    import io
    import tarfile

    with tarfile.open(file, "w") as tar:
        for shard in WebDatasetInput(urls=(DEV,)).open().shards:
            for sample in shard.read():
                if isinstance(sample, Sample) and sample.full_key in keys:
                    for extension, content in {sample.image_ext: sample.image, **sample.members}.items():
                        info = tarfile.TarInfo(f"{sample.key}.{extension}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))


def to_source(pairing: Pairing, name: str) -> Any:
    """Distance of each output's largest face to its source's, where both have one."""
    made, clean = pairing.made(name), pairing.clean(name)
    row = {int(photo): i for i, photo in enumerate(clean.photo)}
    both = [(i, row[int(photo)]) for i, photo in enumerate(made.photo) if int(photo) in row]
    return np.array([1 - made.vectors[i] @ clean.vectors[j] for i, j in both])


def ranks_of(pairing: Pairing) -> dict[str, dict[str, float]]:
    """Rank 1 of the naive search, by `threat recogniser`."""
    found = {
        f"{threat} {name}": rates(reidentify(pairing, name, "naive", threat))
        for threat in THREATS
        for name in pairing.recognisers
    }
    return {name: figures.rank["1"].model_dump() for name, figures in found.items() if figures}


def dumped(figures: Section | None) -> dict[str, Any] | None:
    return figures.model_dump() if figures else None


def mean(values: Sequence[float] | Any) -> float:
    return round(float(np.mean(values)), 5) if len(values) else float("nan")


def error(values: Any) -> float:
    return round(float(np.std(values, ddof=1) / len(values) ** 0.5), 5)


PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "levels": levels, "ladder": ladder, "caught": caught, "bound": bound, "release": release,
}  # fmt: skip
ALONE = ("attackers", "guidance")
"""Parts that read the photographs themselves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *ALONE], default=[*PARTS, *ALONE])
    parser.add_argument("--people", type=int, default=321, help="who have two photographs (default: all 321)")
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="only these of the part `levels` anew")
    args = parser.parse_args()
    file = OUT / "anonymity.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    faces = Faces(args.people, args.levels) if set(args.only) - {"release", "bound", *ALONE} else None
    for part in args.only:
        if part == "guidance":
            guidance(GUIDED_PEOPLE, OTHERS, list(HELD_OUT))  # it has a file of its own
            continue
        results[part] = attackers(DEV, args.people) if part == "attackers" else PARTS[part](faces)
        results["machine"] = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, no GPU"
        file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
