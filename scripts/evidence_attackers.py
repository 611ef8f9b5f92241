"""What attackers find who train networks, or run the operator themselves: part `attackers` of evidence_anonymity.py.

    python scripts/evidence_anonymity.py --only attackers --people 160

People of LFW's `dev` part who have two photographs, both of them put through the shipped recipe's operator once and
through its gate; what passes is attacked. The gallery holds all of these photographs; under T1 a photograph never
finds its own source. Attackers learn on one half of the people and are tested on the other, and the reverse.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.anonymity.attacks.identification import rates, reidentify
from pipeline.anonymity.attacks.photos import THREATS, Pairing, layouts
from pipeline.anonymity.attacks.results import undone
from pipeline.anonymity.attacks.utility import psnr
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import available, load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import joined, tabulate
from pipeline.anonymity.gate.calibration import find_certificate
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.audit.gathering import Held
from pipeline.audit.learning import Own, by_pixels
from pipeline.audit.undoing import by_network, paired_again
from pipeline.diffusion.noise import KeyedNoise
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.shards import WebDatasetInput

LEVELS, STEPS, BATCH, SIZE = (0.6, 0.9), 20, 32, (64, 64)
GATE, ATTACKERS = ("Dlib", "dlib-chip"), ("lbph", "small", "faceres")
JOB, ATTACKER = b"the salt of the evidence", b"the salt of an attacker"


def attackers(urls: str, people: int, levels: Sequence[float] = LEVELS) -> dict[str, Any]:
    """The figures of all attackers at each level of noise."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    of: dict[str, list[tuple[str, Any]]] = {}
    stream = image_stream(WebDatasetInput(urls=(urls,)), SIZE, PixelRules(fit="centre 128"), "json:identity")
    for key, who, image in stream:
        of.setdefault(str(who), []).append((key, image))
    chosen = [who for who, photographs in of.items() if len(photographs) > 1][:people]
    rows = [(key, who, image) for who in chosen for key, image in of[who][:2]]
    keys, names, images = (list(column) for column in zip(*rows, strict=True))
    model = load_model(ModelConfig(path="embedded:lfw_faces/model"), "cpu")
    with FaceFinder("dlib", workers=2) as finder:
        recognisers = [load_recogniser(name) for name in (*GATE, *filter(available, ATTACKERS))]

        def table(pictures: Sequence[Any], named: Sequence[str | None]) -> Any:
            parts = [slice(i, i + BATCH) for i in range(0, len(pictures), BATCH)]
            return joined(
                [tabulate(pictures[p], keys[: len(pictures)][p], named[p], finder, recognisers) for p in parts]
            )

        originals, clean = table(images, names), layouts(images)
        judges = tuple(
            Judge.of(one, find_certificate(one, finder, SIZE), "deepface") for one in recognisers if one.name in GATE
        )
        gate = Gate(finder=finder, judges=judges, originals=originals, smallest_face=16, near_copy=6)
        found: dict[str, Any] = {"people": len(chosen), "photographs": len(images), "levels": {}}
        for level in levels:
            made = through(model, images, keys, level, JOB)
            batches = [slice(i, i + BATCH) for i in range(0, len(made), BATCH)]
            verdicts = [verdict for b in batches for verdict in gate.judge(keys[b], made[b], images[b])]
            passed = np.flatnonzero([verdict.verdict == "anonymous" for verdict in verdicts])
            released = [made[i] for i in passed]
            flat = layouts(released)
            pairing = Pairing(originals=originals, released=table(released, [None] * len(released)), source=passed,
                              layouts={name: (clean[name], flat[name]) for name in clean})  # fmt: skip
            pairs = Held(rows=np.arange(len(passed)), released=released, sources=[images[i] for i in passed])
            row: dict[str, Any] = {"released": len(passed), "seconds": {}}
            row |= {f"{threat} {name} naive": first(rates(reidentify(pairing, name, "naive", threat)))
                    for threat in THREATS for name in pairing.recognisers}  # fmt: skip
            started = time.monotonic()
            own = Own(rows=np.arange(len(images)), images=images, made=through(model, images, keys, level, ATTACKER))
            row["seconds"]["operator"] = round(time.monotonic() - started, 1)
            started = time.monotonic()
            learnt = by_pixels(pairing, pairs, own, finder, recognisers)
            row |= {f"{threat} {name} {attack}": first(figures) for threat, by_name in learnt.items()
                    for name, searches in by_name.items() for attack, figures in searches.items()}  # fmt: skip
            row["seconds"]["parrots and networks"] = round(time.monotonic() - started, 1)
            started = time.monotonic()
            _, which, back = by_network(pairing, pairs)
            row["inverter_psnr"] = mean([psnr(image, images[passed[i]]) for i, image in zip(which, back, strict=True)])
            row["released_psnr"] = mean([psnr(image, images[i]) for i, image in zip(passed, released, strict=True)])
            again = paired_again(pairing, which, back, finder, recognisers)
            for threat in THREATS:
                row |= {f"{threat} {name} inverter": first(figures)
                        for name, figures in (undone(again, threat) or {}).items()}  # fmt: skip
            row["seconds"]["inverter"] = round(time.monotonic() - started, 1)
            found["levels"][str(level)] = row
            print(level, row, flush=True)
    return found


@torch.inference_mode()
def through(model: Any, images: Sequence[Any], keys: Sequence[str], level: float, salt: bytes) -> list[Any]:
    operator, made = Boomerang(t_boom=level, steps=STEPS), list[Any]()
    for i in range(0, len(images), BATCH):
        pixels = to_pixels(images[i : i + BATCH], "cpu")
        noise = KeyedNoise(salt, keys[i : i + BATCH], operator.name, 0)
        made += list(from_pixels(operator(model, model.encode(pixels), Given(pixels=pixels), noise).pixels))
    return made


def first(figures: Any) -> dict[str, float] | None:
    """Rank 1, with how many queries there were."""
    return {"queries": figures.queries, **figures.rank["1"].model_dump()} if figures else None


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)
