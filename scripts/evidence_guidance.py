"""What guidance away from the person gives, judged by a recogniser that was left out of guidance and gate.

    python scripts/evidence_guidance.py      # half an hour on two idle cores; more people: --people 300 --others 1500

For each recogniser that is left out, LFW's `dev` people go through the embedded face model at several levels, plain and
guided, and through a gate without it. What the gate releases is attacked by the one left out (T1: a second photograph
of each person, which neither gate nor guidance has seen, among those of others). Ways that try several levels take, for
each image, the first output that passes.

Figures go into scripts/evidence/guidance.json, the curves into guidance.png beside it; none shows an original.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.anonymity.attacks import utility
from pipeline.anonymity.attacks.identification import rates, reidentify, share
from pipeline.anonymity.attacks.photos import Pairing
from pipeline.anonymity.faces.detect import Face, FaceFinder
from pipeline.anonymity.faces.faceres import FaceRes
from pipeline.anonymity.faces.recognise import available, load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import FaceTable, joined, tabulate
from pipeline.anonymity.gate.calibration import certify, find_certificate
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.guidance import FaceGuidance
from pipeline.anonymity.gate.judge import Judge
from pipeline.anonymity.guidance.guide import Guide
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.shards import WebDatasetInput

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).parent / "evidence"
DEV = str(ROOT.parent / "shared" / "data" / "lfw" / "dev-*.tar")
SIZE, FIT, IDENTITY, BATCH, STEPS = (64, 64), "centre 128", "json:identity", 20, 10
HELD_OUT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "faceres": (("Dlib", "dlib-chip"), ("dlib-chip", "small")),
    "dlib-chip": (("faceres",), ("faceres", "small")),
}
"""Whoever is left out, with the recognisers of the gate and those of the guidance."""
PLAIN, GUIDED, LAST, FURTHER, AT = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.4, 0.6), 0.8, 4, 0.6
"""Levels without and with guidance, the last one of the guided ladder; how many more attempts are made at which level.
"""
LEVELS = {"plain": PLAIN, "guided": GUIDED}
PEOPLE, OTHERS = 48, 72
"""People with a second photograph, who are released and searched for; people with one, who are only in the gallery."""
SMALL_GALLERY = 50
"""Size of the random galleries in which a chance of 2 % can be told from more with a hundred people."""
Tries = Sequence[tuple[bool, float, int]]
"""Whether guided, the level, and the number of the attempt, in their order."""
WAYS: dict[str, Tries] = {
    **{f"guided {level}": [(True, level, 0)] for level in GUIDED},
    **{f"plain {level}": [(False, level, 0)] for level in PLAIN},
    "plain ladder 0.4 … 0.8": [(False, level, 0) for level in PLAIN[:-1]],
    "plain ladder 0.4 … 0.9": [(False, level, 0) for level in PLAIN],
    f"plain {AT}, five attempts": [(False, AT, attempt) for attempt in range(FURTHER + 1)],
    "guided ladder 0.4, 0.6, 0.8": [(True, level, 0) for level in (*GUIDED, LAST)],
}


class Remembering(FaceFinder):
    """A finder that looks at each image once: gate, attack and utility all see the same outputs."""

    def __init__(self) -> None:
        super().__init__("dlib", workers=0)
        self.found: dict[bytes, list[Face]] = {}

    def find(self, images: Sequence[Any]) -> list[list[Face]]:
        for image in images:
            if image.tobytes() not in self.found:
                (self.found[image.tobytes()],) = super().find([image])
        return [self.found[image.tobytes()] for image in images]


class World:
    """One photograph of each of `people` people to release; their second ones, and `others`' to search among."""

    def __init__(self, people: int, others: int, held_out: str) -> None:
        self.held_out, (judging, self.guiding) = held_out, HELD_OUT[held_out]
        self.finder = Remembering()
        names = dict.fromkeys([*judging, *self.guiding, held_out])
        self.recognisers = [load_recogniser(name) for name in names]
        self.gender = FaceRes.load()
        self.model = load_model(ModelConfig(path="embedded:lfw_faces/model"), "cpu")
        of: dict[str, list[tuple[str, Any]]] = {}
        for key, who, image in image_stream(WebDatasetInput(urls=(DEV,)), SIZE, PixelRules(fit=FIT), IDENTITY):
            of.setdefault(str(who), []).append((key, image))
        several = [who for who, images in of.items() if len(images) > 1][:people]
        alone = [who for who, images in of.items() if len(images) == 1][:others]
        first, second, rest = (
            [(*of[who][number], who) for who in some] for some, number in ((several, 0), (several, 1), (alone, 0))
        )
        self.keys, self.images = [key for key, _, _ in first], [image for _, image, _ in first]
        firsts, seconds, others_ = (
            self.table([image for _, image, _ in some], [key for key, _, _ in some], [who for _, _, who in some])
            for some in (first, second, rest)
        )
        self.originals, known = joined([firsts, seconds, others_]), joined([firsts, others_])
        judges = [Judge.of(one, self.certificate(one), "deepface") for one in self.recognisers if one.name in judging]
        self.gate = Gate(finder=self.finder, judges=tuple(judges), originals=known, smallest_face=16, near_copy=6)
        guide = Guide.of(FaceGuidance(recognisers=self.guiding), self.gate, "cpu", 0)
        self.guide, self.male = guide, self.males(self.images)

    def certificate(self, recogniser: Any) -> Any:
        try:
            return find_certificate(recogniser, self.finder, SIZE)
        except UserError:
            return certify(self.originals, recogniser, self.finder, SIZE, data="the originals of this run")

    def table(self, images: Sequence[Any], keys: Sequence[str], people: Sequence[str | None]) -> FaceTable:
        chunks = [slice(i, i + BATCH) for i in range(0, len(images), BATCH)]
        return joined([tabulate(images[c], keys[c], people[c], self.finder, self.recognisers) for c in chunks])

    def males(self, images: Sequence[Any]) -> NDArray[np.int64]:
        """`[N]`: 1 for a face taken for a man's, 0 for a woman's, -1 without a face."""
        found = self.finder.find(images)
        squares = [(i, of_image[0].square) for i, of_image in enumerate(found) if of_image]
        male = np.full(len(images), -1)
        if squares:
            male[[i for i, _ in squares]] = self.gender.age_and_gender([s for _, s in squares if s is not None]).male
        return male

    @torch.inference_mode()
    def run(self, guided: bool, level: float, attempt: int, wanted: NDArray[np.bool_]) -> list[Any]:
        """The outputs of the wanted images; the others stay None."""
        operator, made, numbers = (
            Boomerang(t_boom=level, steps=STEPS),
            [None] * len(self.images),
            np.flatnonzero(wanted),
        )
        for part in np.split(numbers, range(BATCH, len(numbers), BATCH)):
            keys = [self.keys[i] for i in part]
            pixels = to_pixels([self.images[i] for i in part], "cpu")
            noise = KeyedNoise(b"the salt of the evidence", keys, f"boomerang/{level}/{attempt}", 0)
            steer = self.guide.steer(keys, self.model) if guided else None
            done = operator(self.model, self.model.encode(pixels), Given(pixels=pixels, steer=steer), noise)
            for i, image in zip(part, from_pixels(done.pixels), strict=True):
                made[i] = image  # type: ignore[call-overload]
        return made

    def judged(self, images: list[Any]) -> NDArray[np.bool_]:
        passed = np.zeros(len(images), bool)
        there = [i for i, image in enumerate(images) if image is not None]
        for start in range(0, len(there), BATCH):
            some = there[start : start + BATCH]
            verdicts = self.gate.judge(*([group[i] for i in some] for group in (self.keys, images, self.images)))
            passed[some] = [verdict.verdict == "anonymous" for verdict in verdicts]
        return passed


def figures(world: World, way: Tries, done: dict[Any, tuple[list[Any], NDArray[np.bool_], float]]) -> dict[str, Any]:
    """What one way releases, what the one left out finds in it, and what it is still good for."""
    count = len(world.images)
    chosen, level, seconds = [None] * count, np.zeros(count), 0.0
    for one in way:
        images, passed, took = done[one]
        open_ = [i for i in range(count) if chosen[i] is None]
        seconds += took * len(open_)
        for i in open_:
            if passed[i]:
                chosen[i], level[i] = images[i], one[1]
    released = [i for i in range(count) if chosen[i] is not None]
    if len(released) < 3:
        return {"released": len(released) / count}
    images = [chosen[i] for i in released]
    table = world.table(images, [world.keys[i] for i in released], [None] * len(released))
    pairing = Pairing(originals=world.originals, released=table, source=np.array(released))
    found = reidentify(pairing, world.held_out, "naive", "T1")
    source = reidentify(pairing, world.held_out, "naive", "T2")
    assert found is not None
    strangers = found.candidates - found.mates
    nearer = np.minimum(found.rank - 1, strangers)
    drawn = np.arange(SMALL_GALLERY - 1)
    small = np.prod(np.clip((strangers - nearer)[:, None] - drawn, 0, None) / (strangers[:, None] - drawn), axis=1)
    # an attacker who knows of the guidance looks at the far end, too
    last = found.rank == found.candidates - found.mates + 1
    male = world.males(images)
    known = (male >= 0) & (world.male[released] >= 0)
    pose = utility.pose_error(pairing)
    psnr = [utility.psnr(image, world.images[i]) for image, i in zip(images, released, strict=True)]
    return {
        "released": len(released) / count, "mean_level": float(level[released].mean()),
        "seconds_an_image": round(seconds / count, 2),
        "T1": rates(found).model_dump(), "T2": rates(source).model_dump() if source else None,  # type: ignore[union-attr]
        "nearer_than_a_stranger": share(1 - nearer / strangers, found.person).model_dump(),
        f"first_of_{SMALL_GALLERY}": share(small, found.person).model_dump() | {"chance": 1 / SMALL_GALLERY},
        "farthest_of_all": share(last, found.person).model_dump(),
        "psnr": round(float(np.mean(psnr)), 2), "pose": pose.model_dump() if pose else None,
        "gender": {"faces": int(known.sum()), "agree": float((male == world.male[released])[known].mean())},
    }  # fmt: skip


def leave_out(held_out: str, people: int, others: int) -> dict[str, Any]:
    """All ways, with one recogniser in neither guidance nor gate."""
    world = World(people, others, held_out)
    clean = Pairing(originals=world.originals, released=world.originals, source=np.arange(len(world.originals.keys)))
    without = rates(reidentify(clean, held_out, "clean", "T1"))
    ways = dict[str, Any]()
    about = {
        "people": people, "gallery": len(world.originals.keys), "steps": STEPS,
        "gate": HELD_OUT[held_out][0], "guidance": FaceGuidance(recognisers=world.guiding).model_dump(mode="json"),
        "clean": without.model_dump() if without else None, "ways": ways,
    }  # fmt: skip
    done: dict[Any, tuple[list[Any], NDArray[np.bool_], float]] = {}
    for one in dict.fromkeys(one for way in WAYS.values() for one in way):
        started = time.monotonic()
        before = [done[(one[0], one[1], attempt)][1] for attempt in range(one[2])]
        if one[1] == LAST and one[0]:
            before = [done[(True, level, 0)][1] for level in GUIDED]
        wanted = ~np.any(before, axis=0) if before else np.ones(people, bool)  # only what has not passed yet
        images = world.run(*one, wanted)
        took = (time.monotonic() - started) / max(int(wanted.sum()), 1)
        done[one] = (images, world.judged(images), took)
        print(held_out, one, f"{done[one][1].mean():.2f} pass, {took:.2f} s an image", flush=True)
        for name, way in WAYS.items():
            if name not in ways and all(part in done for part in way):
                ways[name] = figures(world, way, done)
                print(held_out, name, brief(ways[name]), flush=True)
                keep(held_out, about)
    return about


def keep(held_out: str, found: dict[str, Any]) -> None:
    """Writes what is known by now beside what was measured of the others."""
    file = OUT / "guidance.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    results[held_out] = found
    file.write_text(json.dumps(results, indent=1) + "\n")


def brief(found: dict[str, Any]) -> str:
    if "T1" not in found:
        return f"released {found['released']:.0%}"
    rank, near = found["T1"]["rank"]["1"], found["nearer_than_a_stranger"]["share"]
    return (
        f"released {found['released']:.0%}, rank 1 {rank['share']:.1%} ({rank['low']:.1%} to {rank['high']:.1%}), "
        f"nearer {near:.2f}, PSNR {found['psnr']}, gender {found['gender']['agree']:.0%}"
    )


def draw(results: dict[str, Any]) -> None:
    """Likeness, where faces look and gender against how near the person is, for each recogniser that is left out."""
    measures = {
        "PSNR in dB": lambda way: way["psnr"],
        "eyes moved, in eye distances": lambda way: way["pose"]["eyes"]["mean"],
        "gender agrees": lambda way: way["gender"]["agree"],
    }
    figure = Figure(figsize=(4.6 * len(measures), 3.8 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), len(measures), squeeze=False)
    groups = (("plain", "#3b6fb6", "o-"), ("guided", "#d1622b", "s-"))
    for row, (held_out, found) in zip(axes, results.items(), strict=True):
        ways = {name: way for name, way in found["ways"].items() if "T1" in way}
        for axis, (label, measure) in zip(row, measures.items(), strict=True):
            for group, colour, style in groups:
                single = [ways[f"{group} {level}"] for level in LEVELS[group] if f"{group} {level}" in ways]
                axis.plot([w["nearer_than_a_stranger"]["share"] for w in single], [measure(w) for w in single], style,
                          color=colour, label=f"{group}, one level each")  # fmt: skip
            several = ((name, way) for name, way in ways.items() if len(WAYS[name]) > 1)
            for marker, (name, way) in zip("^v*DXP", several, strict=False):
                near = way["nearer_than_a_stranger"]["share"]
                axis.plot([near], [measure(way)], marker, ms=9, label=f"{name} ({way['released']:.0%} released)",
                          color="#d1622b" if "guided" in name else "#3b6fb6", mec="black")  # fmt: skip
            axis.axvline(0.5, color="#999999", linewidth=0.9, linestyle=":")
            axis.set(xlabel=f"{held_out}: own photograph nearer than a stranger's (.5: chance)", ylabel=label)
        row[0].legend(fontsize=7)
    figure.savefig(OUT / "guidance.png", dpi=110)


def guidance(people: int, others: int, held_out: Sequence[str]) -> None:
    """Measures what is asked for, and keeps what was measured before of the rest."""
    for name in held_out:
        missing = [one for one in {name, *sum(HELD_OUT[name], ()), "faceres"} if not available(one)]
        if missing:
            print(f"{name} left out: skipped, for the weights of {', '.join(missing)} are absent")
            continue
        leave_out(name, people, others)
        draw(json.loads((OUT / "guidance.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=PEOPLE, help="who have two photographs")
    parser.add_argument("--others", type=int, default=OTHERS, help="who have one")
    parser.add_argument("--held-out", nargs="+", choices=HELD_OUT, default=list(HELD_OUT))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    guidance(args.people, args.others, args.held_out)


if __name__ == "__main__":
    main()
