"""Trains the small face embedder on LFW's training people, and measures it and LBPH on people it never saw.

    python scripts/train_face_embedder.py --minutes 37                 # trains, exports, measures; one CPU core
    python scripts/train_face_embedder.py --measure                    # only measures what is exported

Faces are found once (runs/face_embedder). Writes pipeline/assets/face_embedder and scripts/evidence/recognisers.json.
A batch holds two photographs of each of its people (two views of the only one, where there is but one). Two losses:
each photograph must find its partner among the batch (NT-Xent, 2002.05709), which gets a network of few photographs
a person off the ground; and the additive angular margin over all people (ArcFace, 1801.07698), which comes in later.
Nothing is distilled from another recogniser: it has to be unrelated to the gate's. All draws are seeded; the schedule
follows the clock, so that a busier machine takes fewer steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, interpolate, normalize

from pipeline.anonymity.faces.detect import FaceFinder, enlarge
from pipeline.anonymity.faces.embedder import EmbedderConfig, FaceNetwork, SmallEmbedder, angular_margin, save_embedder
from pipeline.anonymity.faces.gallery import nearest
from pipeline.anonymity.faces.lbph import LBPH
from pipeline.anonymity.faces.metrics import bootstrap_people
from pipeline.anonymity.faces.scanning import image_stream, scan
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.calibration import certify
from pipeline.media.rules import PixelRules
from pipeline.streams.shards import WebDatasetInput

ROOT = Path(__file__).resolve().parents[1]
ASSET, EVIDENCE = ROOT / "pipeline" / "assets" / "face_embedder", ROOT / "scripts" / "evidence" / "recognisers.json"
RUNS = ROOT / "runs" / "face_embedder"
SHARDS = "../shared/data/lfw/{}-*.tar"
WIDE, SIDE, ROOM = 80, EmbedderConfig().size, 1.5
"""Crops are kept with a margin, 1.5 times as wide as the face and 80 px: there is room to shift and turn."""
BATCH, LR, WEIGHT_DECAY, AVERAGE = 192, 1.5e-3, 0.02, 0.02
"""AVERAGE: how far the moving average of the weights follows at each step."""
SINGLE, STRENGTH = 0.3, 0.75
"""Weight of a person with one photograph where one with n has √n; strength of the augmentation."""
SCALE, TEMPERATURE, CLASSES = 24.0, 0.1, (0.2, 1.0)
"""Of the margin loss and of the partner loss; CLASSES: the former's weight beside the latter, at first and at last."""
ANGLE, GROWING = 0.2, (0.5, 0.8)
"""The margin (radians) and CLASSES grow between these shares of the run."""
TELL = 120
"""Seconds between lines and checkpoints."""


def source(split: str) -> WebDatasetInput:
    return WebDatasetInput(urls=(SHARDS.format(split),))


# --- faces ---


def find_faces(split: str, size: int, finder: FaceFinder, recognisers: list[Any]) -> FaceTable:
    return scan(
        source(split), size=(size, size), rules=PixelRules(fit="centre 128"), identity="json:identity", finder=finder,
        recognisers=recognisers, folder=RUNS / f"{split}-{size}",
    )  # fmt: skip


def wide_crops() -> tuple[Tensor, Tensor]:
    """Training faces uint8 `[N, 3, 80, 80]`, upright, and the number of the person in each."""
    file = RUNS / "crops.npz"
    if not file.is_file():
        with FaceFinder(workers=0) as finder:
            table = find_faces("train", 128, finder, [])
        row_of = {table.keys[table.image[row]]: row for row in table.first_faces()}
        images = image_stream(source("train"), (128, 128), PixelRules(fit="centre 128"), "json:identity")
        kept = [(wide_crop(image, table, row_of[key]), who) for key, who, image in images if key in row_of]
        crops, people = zip(*kept, strict=True)
        np.savez(file, crops=np.stack(crops), people=np.unique(people, return_inverse=True)[1])
    saved = np.load(file)
    return torch.from_numpy(saved["crops"]).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(saved["people"])


def wide_crop(image: NDArray[np.uint8], table: FaceTable, row: int) -> NDArray[np.uint8]:
    """As deepface aligns: turned about the middle of the box until the eyes are level."""
    big = enlarge(image)
    scale = len(big) / len(image)
    left, top, width, height = (table.box[row] * scale).tolist()
    (lx, ly), (rx, ry) = table.eyes[row].tolist()
    angle = math.atan2(ly - ry, lx - rx)  # the person's left eye is on the right
    step = width * ROOM / WIDE
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * step
    middle = np.array([left + width / 2, top + height / 2]) - turn @ [WIDE / 2, WIDE / 2]
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(big, np.c_[turn, middle], (WIDE, WIDE), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cut, np.uint8)


# --- augmentation: pixels float `[B, 3, 48, 48]` in [-1, 1]; every image draws for itself ---


def normal(like: Tensor, spread: float, channels: int = 1) -> Tensor:
    return torch.randn(len(like), channels, 1, 1) * spread


def augment(crops: Tensor, strength: float) -> Tensor:
    """uint8 wide crops → views: moved, mirrored, coarsened, lit otherwise, partly hidden."""
    pixels = moved(crops.float() / 127.5 - 1, strength)
    groups = [coarsened(group) for group in pixels.split(max(1, len(pixels) // 4))]
    pixels = recoloured(relit(torch.cat(groups), strength))
    noisy = pixels + torch.randn_like(pixels) * torch.rand(len(pixels), 1, 1, 1) * 0.06
    return hidden(noisy, 0.4 * strength).contiguous(memory_format=torch.channels_last)


def moved(pixels: Tensor, strength: float) -> Tensor:
    """Dlib's boxes come in steps of a fifth, so shift and scale of the face in its crop vary by 5 % and 10 %."""
    n = len(pixels)
    angle, x, y = torch.randn(n) * 0.1 * strength, torch.randn(n) * 0.06 * strength, torch.randn(n) * 0.06 * strength
    high = (torch.randn(n) * 0.08 * strength).exp() / ROOM
    wide = high * (torch.randn(n) * 0.03 * strength).exp() * (1 - 2 * (torch.rand(n) < 0.5).float())
    rows = [torch.stack([angle.cos() * wide, -angle.sin() * high, x], 1)]
    rows += [torch.stack([angle.sin() * wide, angle.cos() * high, y], 1)]
    grid = affine_grid(torch.stack(rows, 1), [n, 3, SIDE, SIDE], align_corners=False)
    return grid_sample(pixels, grid, align_corners=False, padding_mode="border")


def coarsened(pixels: Tensor) -> Tensor:
    """Down to 18–44 px and up again, four times in five."""
    if torch.rand(()) < 0.2:
        return pixels
    side = int(torch.randint(18, 45, ()))
    small = interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return interpolate(small, size=(SIDE, SIDE), mode="bicubic")


def relit(pixels: Tensor, strength: float) -> Tensor:
    """Another gamma, and light that comes from one side."""
    ramp = torch.linspace(-1, 1, SIDE)
    light = normal(pixels, 0.25 * strength) * ramp + normal(pixels, 0.15 * strength) * ramp[:, None]
    return ((pixels + 1) / 2).clamp(1e-3, 1) ** normal(pixels, 0.25).exp() * light.exp() * 2 - 1


def recoloured(pixels: Tensor) -> Tensor:
    """Another saturation (none for one in seven), contrast, brightness and tint."""
    n = len(pixels)
    grey = pixels.mean(1, keepdim=True)
    saturation = (torch.rand(n, 1, 1, 1) * 1.1 + 0.4) * (torch.rand(n, 1, 1, 1) > 0.15)
    pixels = grey + (pixels - grey) * saturation
    mean = pixels.mean((1, 2, 3), keepdim=True)
    contrast = torch.rand(n, 1, 1, 1) * 0.8 + 0.6
    return mean + (pixels - mean) * contrast + normal(pixels, 0.15) + normal(pixels, 0.06, 3)


def hidden(pixels: Tensor, share: float) -> Tensor:
    """A rectangle of one colour over `share` of the images."""
    n, along = len(pixels), torch.arange(SIDE)
    extent = torch.randint(6, 23, (2, n, 1))
    start = (torch.rand(2, n, 1) * (SIDE - extent)).int()
    inside = (along >= start) & (along < start + extent)
    mask = inside[0][:, :, None] & inside[1][:, None, :] & (torch.rand(n, 1, 1) < share)
    return torch.where(mask[:, None], normal(pixels, 0.4, 3), pixels)


# --- training ---


def pair_sampler(people: Tensor, single: float) -> Callable[[], Tensor]:
    """Draws rows `[2 · BATCH/2]`: first photographs, then their partners. People by the root of what they have."""
    rows = [np.flatnonzero(people.numpy() == i) for i in range(int(people.max()) + 1)]
    weights = torch.tensor([single if len(own) == 1 else len(own) ** 0.5 for own in rows], dtype=torch.float64)
    rng = np.random.default_rng(0)

    def draw() -> Tensor:
        chosen = torch.multinomial(weights, BATCH // 2).tolist()
        two = [rng.choice(rows[i], 2, replace=len(rows[i]) == 1) for i in chosen]
        return torch.from_numpy(np.stack(two, axis=1).ravel())

    return draw


def partner_loss(embeddings: Tensor) -> Tensor:
    """Row i's partner is row i ± B/2; all others of the batch are other people."""
    similarity = (embeddings @ embeddings.T / TEMPERATURE).fill_diagonal_(-1e4)
    return cross_entropy(similarity, torch.arange(len(embeddings)).roll(len(embeddings) // 2))


def class_loss(embeddings: Tensor, centres: Tensor, labels: Tensor, margin: float) -> Tensor:
    cosines = embeddings @ normalize(centres).T
    return cross_entropy(SCALE * angular_margin(cosines, labels, margin=margin), labels)


def follow(average: nn.Module, network: nn.Module, rate: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            slow.lerp_(fast, rate) if slow.is_floating_point() else slow.copy_(fast)


def adamw(weights: list[Tensor]) -> torch.optim.Optimizer:
    """Norms and biases do not decay."""
    groups = [{"params": [p for p in weights if p.ndim > 1], "weight_decay": WEIGHT_DECAY}]
    groups += [{"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99))


def train(minutes: float) -> dict[str, Any]:
    """AdamW, warm-up of 100 steps, then cosine over the minutes; exports the moving average of the weights."""
    torch.manual_seed(0)
    crops, people = wide_crops()
    config = EmbedderConfig()
    network = FaceNetwork(config, dropout=0.2).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    centres = nn.Parameter(torch.randn(int(people.max()) + 1, config.dimensions) * 0.05)
    weights = [centres, *network.parameters()]
    optimizer = adamw(weights)
    draw, step, start, told = pair_sampler(people, SINGLE), 0, time.monotonic(), time.monotonic()
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * done)) / 2
        rows = draw()
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = network(augment(crops[rows], STRENGTH))
        embeddings = normalize(embeddings.float())
        grown = min(1.0, max(0.0, (done - GROWING[0]) / (GROWING[1] - GROWING[0])))
        partner, classes = partner_loss(embeddings), class_loss(embeddings, centres, people[rows], ANGLE * grown)
        optimizer.zero_grad(set_to_none=True)
        (partner + (CLASSES[0] + grown * (CLASSES[1] - CLASSES[0])) * classes).backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        optimizer.step()
        step += 1
        follow(average, network, max(AVERAGE, 9 / (10 + step)))
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            print(f"{done:4.0%} step {step}: partner {partner.item():.3f}, classes {classes.item():.3f}", flush=True)
            save_embedder(average, config, RUNS / "checkpoint")
    took = round((time.monotonic() - start) / 60, 1)
    save_embedder(average, config, ASSET)
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "steps": step, "minutes": took, "photographs": len(crops), "people": len(centres), "parameters": parameters,
    }  # fmt: skip


# --- measuring ---


def measure() -> dict[str, Any]:
    """TAR, EER and rank-1 of both recognisers on the dev people's 64 px images; nobody in training is among them."""
    recognisers = [SmallEmbedder.load(), LBPH()]
    with FaceFinder(workers=0) as finder:
        table = find_faces("dev", 64, finder, recognisers)
        made = {}
        for recogniser in recognisers:
            certificate = certify(table, recogniser, finder, (64, 64), data="LFW dev people")
            facts = certificate.model_dump(mode="json", include=set(REPORTED))
            made[recogniser.name] = {**facts, "second_photograph": second_photograph(table, recogniser.name)}
    return made


def second_photograph(table: FaceTable, name: str) -> dict[str, Any]:
    """Rank 1 of the second photograph of everyone who has two, in a gallery of everybody's first."""
    rows = table.first_faces()
    people = np.unique([table.identities[i] or "" for i in table.image[rows]], return_inverse=True)[1]
    order = np.argsort(people, kind="stable")
    nth = np.arange(len(order)) - np.searchsorted(people[order], people[order])
    first, second = order[nth == 0], order[nth == 1]
    vectors = table.embeddings[name][rows]
    found = nearest(vectors[second], vectors[first], 1)[1][:, 0]
    hits = people[first][found] == people[second]
    interval = [round(end, 4) for end in bootstrap_people(hits, people[second])]
    counts = {"queries": len(second), "gallery": len(first)}
    return {
        **counts,
        "rank_1": round(float(hits.mean()), 4),
        "interval_95": interval,
        "chance": round(1 / len(first), 5),
    }


def card(facts: dict[str, Any]) -> str:
    small, trained = facts["recognisers"]["small"], facts["training"]
    second = small["second_photograph"]
    rows = {
        "data": f"LFW (deep-funneled), {trained['photographs']:,} photographs of {trained['people']:,} people, "
        "found by deepface's dlib detector; nothing else, no teacher",
        "caution": "the settings were chosen after shorter runs by their TAR on the same dev people, so the figures "
        "below are a little too good; the weights are those of the last step of one run",
        "terms": "research use; the rights in the photographs remain with their owners",
        "made by": f"`{trained['command']}`, {trained['steps']} steps of {BATCH} in {trained['minutes']} minutes",
        "machine": trained["machine"],
        "measured on": f"{small['people']:,} other people of LFW at 64×64 px, {small['genuine']:,} genuine pairs",
        "TAR at FAR 1e-2 / 1e-3 / 1e-4": " / ".join(f"{value:.3f}" for value in small["tar"].values()),
        "EER": f"{small['eer']:.3f}",
        "rank-1 of a second photograph": f"{second['rank_1']:.3f} among {second['gallery']:,} (chance "
        f"{second['chance']:.4f})",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return CARD.format(parameters=trained["parameters"] / 1e6, table=table)


CARD = """# face_embedder

**A research demonstration, trained on LFW.** A small face recogniser, {parameters:.2f} M parameters (half precision),
48×48 RGB crops to 128 numbers compared by cosine, that attacks anonymised faces and owes nothing to the recogniser that
let them pass. It has seen few people and is far weaker than what an attacker can download: that it fails proves
little, that it succeeds proves a leak. Not for identifying anyone.

| | |
|---|---|
{table}
"""
REPORTED = ("people", "images", "faces_found", "genuine", "impostor", "tar", "eer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=37)
    parser.add_argument("--measure", action="store_true", help="train nothing; measure what is exported")
    args = parser.parse_args()
    machine = f"{platform.machine()}, CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    command = shlex.join(["python", "scripts/train_face_embedder.py", *sys.argv[1:]])
    facts = json.loads(EVIDENCE.read_text()) if args.measure and EVIDENCE.is_file() else {}
    if not args.measure:
        facts["training"] = {"command": command, "machine": machine, **train(args.minutes)}
    facts |= {"command": command, "machine": machine, "recognisers": measure()}
    EVIDENCE.write_text(json.dumps(facts, indent=1) + "\n")
    (ASSET / "README.md").write_text(card(facts))


if __name__ == "__main__":
    main()
