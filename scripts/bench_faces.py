"""What the gate costs: ratios against the obvious alternatives, each side in a process of its own, in one run.

    python scripts/bench_faces.py                  # about 5 minutes on two cores; writes evidence/faces_speed.json
    python scripts/bench_faces.py --pairs 20 --queries 500 --gallery 5000 --no-record

1. faces found, embedded and compared in 500 pairs of source and output: `FaceFinder` and a recogniser in batches
   against `DeepFace.verify` called pair by pair; recogniser Dlib, detector dlib. Sources are people of LFW's dev set
   at 64 × 64, as a job has them, enlarged beforehand for both sides; outputs are the same picture a little blurred
   (every other pair) or the next photograph of the set. Models are built and warm before the clock starts; our
   worker processes start before it too. Then the same once more with a second family, faceres, on top (where the
   user has converted it), against the same `DeepFace.verify` with one
2. the whole gate on such pairs: `Gate.judge` with the recognisers of two families, undoings and all, over a gallery of
   the sources, their scan included, against the same `DeepFace.verify` with one recogniser; outputs are photographs of
   others, so that most pass and are looked at again
3. the 10 nearest of 100,000 vectors for 10,000 queries (128 numbers, unit length) against the bare matrix product,
   in tiles, thrown away; and the most memory that the process ever held

FAISS was tried in place of the tiles, and is no dependency, since it loses: the 10 nearest of 200,000 vectors for 256
queries, one thread, CPU seconds (2026-11-27, two cores under load):

    vectors   `nearest`   faiss.IndexFlatIP (faiss-cpu)   found rows
       128       .21             2.60                      the same
     1,024      1.03             5.83                      the same

    gallery, queries = unit vectors of default_rng(0), float32 [200000, D] and [256, D]
    index = faiss.IndexFlatIP(D); index.add(gallery); index.search(queries, 10)     # OMP_NUM_THREADS=1
    nearest(queries, gallery, 10)                                                   # torch.set_num_threads(1)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from pipeline.anonymity.faces.detect import FaceFinder, enlarge
from pipeline.anonymity.faces.recognise import available
from pipeline.media.pixels import decode
from pipeline.media.rules import PixelRules

ROOT = Path(__file__).resolve().parents[1]
LFW = ROOT.parent / "shared" / "data" / "lfw"
EVIDENCE = ROOT / "scripts" / "evidence" / "faces_speed.json"
SIDE, DIMENSIONS, NEIGHBOURS, TILE = 64, 128, 10, 256
CHECKED = 40
"""Images of which `DeepFace.represent` gives the embedding to compare ours with."""
SECOND = ("faceres",)
"""The second family."""
Pair = tuple[np.ndarray, np.ndarray]


def photographs(count: int) -> list[np.ndarray]:
    images: list[np.ndarray] = []
    for shard in sorted(LFW.glob("dev-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and len(images) < count:
                    images.append(decode(tar.extractfile(member).read(), (SIDE, SIDE), PixelRules(fit="centre 128"))[0])  # type: ignore[union-attr]
    return images


def make_pairs(count: int) -> list[Pair]:
    sources = photographs(count + 1)

    def output(i: int) -> np.ndarray:
        if i % 2:
            return sources[i + 1]
        return np.asarray(Image.fromarray(sources[i]).filter(ImageFilter.GaussianBlur(0.5)))

    return [(enlarge(sources[i]), enlarge(output(i))) for i in range(len(sources) - 1)]


def ours(count: int, further: tuple[str, ...] = ()) -> dict[str, Any]:
    """Seconds, the smallest distance between faces of each pair (None: one has no face), embeddings of the first.

    These are Dlib's; `further` recognisers embed and compare the same faces within the clock.
    """
    from pipeline.anonymity.faces.deepface_recognisers import unit
    from pipeline.anonymity.faces.recognise import crops_for, load_recogniser

    pairs = make_pairs(count)
    with FaceFinder("dlib", workers=os.cpu_count() or 1) as finder:
        recognisers = [load_recogniser(name) for name in ("Dlib", *further)]
        for one in recognisers:
            one.embed(crops_for(one.name, finder.find(pairs[0][:1])[0]))
        started = time.perf_counter()
        found = finder.find([image for pair in pairs for image in pair])
        all_faces, ends = [face for faces in found for face in faces], np.cumsum([len(faces) for faces in found])
        made = [one.embed(crops_for(one.name, all_faces)) for one in recognisers]
        each = [smallest_of(unit(embeddings), found, ends) for embeddings in made]
        seconds = time.perf_counter() - started
        embeddings, smallest = made[0], each[0]
    first = [embeddings[end - 1].tolist() if len(f) == 1 else None for f, end in zip(found, ends, strict=True)]
    return {"seconds": seconds, "distances": smallest, "embeddings": first[:CHECKED]}


def smallest_of(units: np.ndarray, found: list[Any], ends: np.ndarray) -> list[float | None]:
    of = [units[end - len(faces) : end] for faces, end in zip(found, ends, strict=True)]
    return [float((1 - a @ b.T).min()) if len(a) and len(b) else None for a, b in zip(of[0::2], of[1::2], strict=True)]


def whole_gate(count: int) -> dict[str, Any]:
    """Seconds of scanning the sources and judging an output of each, and how many passed."""
    from pipeline.anonymity.faces.recognise import load_recogniser
    from pipeline.anonymity.faces.table import tabulate
    from pipeline.anonymity.gate.calibration import find_certificate
    from pipeline.anonymity.gate.families import default_recognisers
    from pipeline.anonymity.gate.gate import Gate
    from pipeline.anonymity.gate.judge import Judge

    photos = photographs(2 * count)
    sources, outputs = photos[:count], photos[count:]
    keys = [str(i) for i in range(count)]
    with FaceFinder("dlib", workers=os.cpu_count() or 1) as finder:
        recognisers = [load_recogniser(name) for name in default_recognisers()]
        judges = tuple(Judge.of(one, find_certificate(one, finder, (SIDE, SIDE)), "deepface") for one in recognisers)
        tabulate(sources[:2], keys[:2], [None] * 2, finder, recognisers)
        started = time.perf_counter()
        table = tabulate(sources, keys, [None] * count, finder, recognisers)
        gate = Gate(finder=finder, judges=judges, originals=table, smallest_face=16, near_copy=6)
        found = gate.judge(keys, outputs, sources)
        seconds = time.perf_counter() - started
    passed = sum(one.verdict == "anonymous" for one in found)
    return {"seconds": seconds, "recognisers": [one.name for one in recognisers], "passed": passed}


def pair_by_pair(count: int) -> dict[str, Any]:
    """The same by deepface alone; the embeddings outside the clock."""
    from deepface import DeepFace

    options = {"model_name": "Dlib", "detector_backend": "dlib"}
    pairs = [(np.ascontiguousarray(a[..., ::-1]), np.ascontiguousarray(b[..., ::-1])) for a, b in make_pairs(count)]
    distances: list[float | None] = []
    verify(DeepFace, pairs[0], options)
    started = time.perf_counter()
    for pair in pairs:
        distances.append(verify(DeepFace, pair, options))
    seconds = time.perf_counter() - started
    embeddings = []
    for image in [image for pair in pairs for image in pair][:CHECKED]:
        try:
            faces = DeepFace.represent(image, **options)
        except ValueError:
            faces = []
        embeddings.append(faces[0]["embedding"] if len(faces) == 1 else None)
    return {"seconds": seconds, "distances": distances, "embeddings": embeddings}


def verify(deepface: Any, pair: Pair, options: dict[str, str]) -> float | None:
    try:
        return float(deepface.verify(*pair, **options)["distance"])
    except ValueError:  # no face
        return None


def vectors(count: int, seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), dtype=np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def search(queries: int, gallery: int) -> tuple[float, int]:
    """Seconds, and the most bytes that this process ever held."""
    from pipeline.anonymity.faces.gallery import nearest

    q, g = vectors(queries, 0), vectors(gallery, 1)
    nearest(q[:TILE], g[:TILE], 1)
    started = time.perf_counter()
    nearest(q, g, NEIGHBOURS)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bare_product(queries: int, gallery: int) -> tuple[float, int]:
    import torch

    q, g = (torch.from_numpy(vectors(count, i)) for i, count in enumerate((queries, gallery)))
    out = torch.empty(TILE, gallery)
    torch.mm(q[:TILE], g.T, out=out[: len(q[:TILE])])
    started = time.perf_counter()
    for i in range(0, queries, TILE):
        rows = q[i : i + TILE]
        torch.mm(rows, g.T, out=out[: len(rows)])
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def compare_pairs(count: int) -> dict[str, Any]:
    us, them = alone(ours, count), alone(pair_by_pair, count)
    both = list(zip(us["distances"], them["distances"], strict=True))
    assert all((a is None) == (b is None) for a, b in both), "the two sides see faces in different pairs"
    embeddings = [(a, b) for a, b in zip(us["embeddings"], them["embeddings"], strict=True) if a and b]
    two = alone(ours, count, SECOND)["seconds"] if all(map(available, SECOND)) else None
    gate = alone(whole_gate, count)
    return {
        "whole gate": {
            **gate,
            "seconds": round(gate["seconds"], 2),
            "times as fast as DeepFace.verify": round(them["seconds"] / gate["seconds"], 2),
        },
        "pairs": len(both),
        "pairs with faces": sum(a is not None for a, _ in both),
        "seconds": round(us["seconds"], 2),
        "seconds of DeepFace.verify": round(them["seconds"], 2),
        "times as fast": round(them["seconds"] / us["seconds"], 2),
        "seconds with two families": two and round(two, 2),
        "times as fast with two families": two and round(them["seconds"] / two, 2),
        "largest difference of a distance": max(abs(a - b) for a, b in both if a is not None),
        "embeddings compared": len(embeddings),
        "largest difference of an embedding": float(np.abs(np.subtract(*zip(*embeddings, strict=True))).max()),
    }


def compare_search(queries: int, gallery: int) -> dict[str, Any]:
    (seconds, held), (bare, _) = alone(search, queries, gallery), alone(bare_product, queries, gallery)
    return {
        "queries": queries,
        "gallery": gallery,
        "seconds": round(seconds, 2),
        "seconds of the bare product": round(bare, 2),
        "times the bare product": round(seconds / bare, 2),
        "peak memory in MiB": round(held / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500, help="0: leave them out")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=100_000, help="0: leave it out")
    parser.add_argument("--no-record", action="store_true", help="leave evidence/faces_speed.json as it is")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "command": " ".join(["python", "scripts/bench_faces.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
    }
    if options.pairs:
        found["gate"] = compare_pairs(options.pairs)
    if options.gallery:
        found["gallery search"] = compare_search(options.queries, options.gallery)
    print(json.dumps(found, indent=1))
    if not options.no_record:
        EVIDENCE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
