"""What privacy jobs cost at scale: memory by the number of originals, and whether the verdicts stay the same.

    PYTHONPATH=. python scripts/evidence_scale_privacy.py     # some 2 minutes of one core; 1 GB of disk in --scratch

1. 20,000, 100,000 and 200,000 synthetic faces of originals (two recognisers, 128 and 256 numbers), in shards of 1,000:
   joined into the mapped file; then 256 outputs are judged against all of them by a worker that maps the file, and by
   one that holds the joined table in memory, as a single process did. Verdicts are compared word by word
2. 2,000 and 20,000 small images (16 × 16) in shards of 1,000: scanned by one process, and by two that take every other
   shard; the joined tables are compared byte by byte. Then a release is shuffled from as many, within 4 MiB and, of
   20,000, within 1 GiB; its files are compared byte by byte

Each figure comes from a process of its own: the growth, in MB, of its private memory (what other processes cannot
share and the kernel cannot drop: RssAnon, looked at 200 times a second) over what it holds before it begins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.anonymity.faces.detect import TRANSFORM, Face
from pipeline.anonymity.faces.joining import JOINED, join
from pipeline.anonymity.faces.scanning import Eyes, parts_of, scan_part, scan_parts
from pipeline.anonymity.faces.table import FaceTable, joined, load_table, save_table
from pipeline.anonymity.gate.calibration import Certificate
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.media.frame import Frame
from pipeline.media.pixels import encode
from pipeline.media.rules import PLAIN
from pipeline.release.finished_job import MadeImage, grouped
from pipeline.release.privacy import derive
from pipeline.release.publishing import buckets_for
from pipeline.release.shuffling import Shuffle
from pipeline.release.writing import Packer, write_shards
from pipeline.streams.shards import WebDatasetInput

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "scripts" / "evidence" / "scale_privacy.json"
FACES, IMAGES, SHARD, OUTPUTS, SIDE = (20_000, 100_000, 200_000), (2_000, 20_000), 1_000, 256, 16
SIZES = {"narrow": 128, "wide": 256}
"""Recognisers, with the length of their embeddings."""
PER_PERSON = 2
"""Photographs of a person."""
Pixels8 = np.ndarray[Any, Any]


class Eyesight:
    """A detector for which each image is a face."""

    detector, weights = "whole image", "none"

    def find(self, images: Sequence[Pixels8]) -> list[list[Face]]:
        return [[Face(box=(0, 0, SIDE, SIDE), eyes=None, confidence=1.0, crop=image)] for image in images]


class Known:
    """A recogniser whose embeddings follow from the first pixels: an original's number, and how near to it."""

    weights, threshold = "none", 0.3

    def __init__(self, name: str, originals: FaceTable | None = None) -> None:
        self.name, self.originals = name, originals

    def embed(self, crops: Sequence[Pixels8]) -> Pixels8:
        made = [self._of(crop.reshape(-1)[:4].astype(np.int64)) for crop in crops]
        return np.array(made, np.float32).reshape(-1, SIZES[self.name])

    def _of(self, told: Pixels8) -> Pixels8:
        person, near = int(told[0] * 65536 + told[1] * 256 + told[2]), told[3] / 255
        other = np.random.default_rng(person).normal(size=SIZES[self.name])
        own = other if self.originals is None else self.originals.embeddings[self.name][person]
        mixed = near * own + (1 - near) * other / np.linalg.norm(other)
        return mixed / np.linalg.norm(mixed)


def vectors(name: str, shard: int) -> Pixels8:
    """The embeddings `[SHARD, D]` of a shard of originals: pairs of photographs of one person."""
    rng = np.random.default_rng([shard, SIZES[name]])
    people = np.repeat(rng.normal(size=(SHARD // PER_PERSON, SIZES[name])), PER_PERSON, axis=0)
    made = people + 0.3 * rng.normal(size=people.shape)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def output(number: int, originals: int) -> tuple[str, Pixels8]:
    """The key of an original, and an image whose face is more or less like it."""
    person = number * (originals // OUTPUTS)
    image = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image.reshape(-1)[:4] = [person // 65536, person // 256 % 256, person % 256, 40 * (number % 7)]
    return f"{person // SHARD:05d}/{person % SHARD:06d}", image


def shards_of(folder: Path, count: int) -> list[tuple[Path, dict[str, Any]]]:
    """The tables of `count` originals, written where they are not there."""
    folder.mkdir(exist_ok=True)
    kept = [(folder / f"{number:05d}.safetensors", {"shard": number}) for number in range(count // SHARD)]
    for number, (file, made_of) in enumerate(kept):
        if file.exists():
            continue
        hashes = np.random.default_rng(number).integers(0, 2**63, SHARD, dtype=np.uint64)
        save_table(FaceTable(
            keys=tuple(f"{number:05d}/{i:06d}" for i in range(SHARD)),
            identities=tuple(f"person {number} {i // PER_PERSON}" for i in range(SHARD)),
            image=np.arange(SHARD), box=np.tile(np.float32([0, 0, SIDE, SIDE]), (SHARD, 1)),
            eyes=np.zeros((SHARD, 2, 2), np.float32), embeddings={name: vectors(name, number) for name in SIZES},
            phash=hashes,
        ), file, made_of)  # fmt: skip
    return kept


def certificate(name: str) -> Certificate:
    return Certificate.model_validate({
        "recogniser": name, "weights": "none", "detector": "whole image", "detector_weights": "none",
        "size": (SIDE, SIDE), "transform": TRANSFORM, "data": "made up", "people": 9, "images": 90, "faces_found": 1.0,
        "genuine": 100, "impostor": 1000, "tar": {"1e-2": 0.99, "1e-3": 0.95, "1e-4": 0.9},
        "thresholds": {"1e-2": 0.4, "1e-3": 0.3, "1e-4": 0.2}, "eer": 0.01, "deepface_threshold": 0.3,
        "deepface_tar": 0.98, "deepface_far": 0.02, "closest_impostor": 0.1, "floor": 0.8,
        "roc": [(0.0, 0.5, 0.1), (0.02, 0.98, 0.3), (1.0, 1.0, 2.0)],
    })  # fmt: skip


def judge(table: FaceTable) -> dict[str, Any]:
    """The verdicts on the outputs, and how many are of which kind."""
    judges = tuple(Judge.of(Known(name, table), certificate(name), "deepface") for name in SIZES)
    gate = Gate(
        finder=Eyesight(), judges=judges, originals=table, smallest_face=4, near_copy=6, shared=1.0, undoings={}
    )  # type: ignore[arg-type]
    told = list[str]()
    for first in range(0, OUTPUTS, 64):
        keys, images = zip(*(output(i, len(table.keys)) for i in range(first, first + 64)), strict=True)
        told += [repr((v.verdict, v.why, v.faces, v.others_within)) for v in gate.judge(keys, images, images)]
    kinds = {kind: sum(kind in one[:20] for one in told) for kind in ("anonymous", "recognisable")}
    return {"verdicts": hashlib.sha256("\n".join(told).encode()).hexdigest(), **kinds}


def build(folder: Path, count: int) -> dict[str, Any]:
    return {"images": len(join(shards_of(folder, count), folder).keys)}


def mapped_worker(folder: Path, count: int) -> dict[str, Any]:
    return judge(join(shards_of(folder, count), folder))


def one_process(folder: Path, count: int) -> dict[str, Any]:
    return judge(joined([load_table(*kept) for kept in shards_of(folder, count)]))


def small_images(folder: Path, count: int) -> WebDatasetInput:
    """`count` images in tars of `SHARD`; each with what a job's own tars have beside them."""
    import io
    import tarfile

    folder.mkdir(exist_ok=True)
    for shard in range(count // SHARD):
        if (folder / f"{shard:05d}.tar").exists():
            continue
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(SHARD):
                image = output(shard * SHARD + number, OUTPUTS)[1]
                for ext, content in (("png", encode(image, Frame.whole("RGB", (SIDE, SIDE)), codec="png", quality=95)),
                                     ("doppel.json", b'{"filler": "' + b"x" * 900 + b'"}')):  # fmt: skip
                    info = tarfile.TarInfo(f"{number:06d}.{ext}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return WebDatasetInput(urls=tuple(str(folder / f"{shard:05d}.tar") for shard in range(count // SHARD)))


def scan_small(folder: Path, count: int, turns: int) -> dict[str, Any]:
    """Scans the shards in `turns` turns, as so many workers would."""
    source, kept = small_images(folder / "images", count), folder / f"faces-{count}-{turns}"
    eyes, recognisers = Eyesight(), [Known("narrow")]
    parts = parts_of(
        source, size=(SIDE, SIDE), rules=PLAIN, identity=None, eyes=Eyes.of(eyes, recognisers)  # type: ignore[arg-type]
    )  # fmt: skip
    for turn in range(turns):
        for part in parts[turn::turns]:
            scan_part(part, kept, eyes, recognisers)  # type: ignore[arg-type]
    table = scan_parts(parts, kept, eyes, recognisers)  # type: ignore[arg-type]
    content = (kept / JOINED).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # the header tells when the shards were written
    return {"images": len(table.keys), "table": hashlib.sha256(content[start:]).hexdigest()}


def shuffle_small(folder: Path, count: int, memory: int) -> dict[str, Any]:
    """Takes the images into a release, as `publish` does."""
    source, out = small_images(folder / "images", count), folder / f"release-{count}-{memory}" / "data"
    tars = [Path(url) for url in source.urls]
    secret, buckets = derive(b"the secret of this evidence"), buckets_for(tars, memory)
    shuffle = Shuffle(folder / "spool", secret, buckets)
    for tar in tars:
        for key, spans in grouped(tar):
            shuffle.add(MadeImage(
                key=f"{tar.stem}/{key}", source=f"{tar.stem}/{key}", source_key=key, tar=tar, image_ext="png",
                image=spans["png"], members={}, label=None, level="none", verdict="anonymous", sigma=None, attempt=0,
            ))  # fmt: skip
    out.mkdir(parents=True)
    packer = Packer(secret=secret, who=lambda key: None, quality=95, size=(SIDE, SIDE), rules=PLAIN)
    files, _ = write_shards(packer, shuffle, (), data=out, shard_size=SHARD)
    shutil.rmtree(folder / "spool")
    told = sorted((name, file.sha256) for name, file in files.items())
    return {"buckets": buckets, "files": hashlib.sha256(repr(told).encode()).hexdigest()}


def private_kib() -> int:
    """The private memory of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0])


def _measured(send: Any, work: Callable[..., dict[str, Any]], given: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    torch.mm(torch.ones(256, 256), torch.ones(256, 256))
    derive(b"what scrypt takes is taken now")
    before, peak, over = private_kib(), [0], threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], private_kib())

    watch = threading.Thread(target=look)
    watch.start()
    started = time.perf_counter()
    try:
        found = work(*given)
    finally:
        over.set()
        watch.join()
    seconds = round(time.perf_counter() - started, 1)
    send.send({**found, "mb": round((max(peak[0], private_kib()) - before) / 1024, 1), "seconds": seconds})


def measured(work: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What `work` finds in a process of its own, with the growth of its memory and its time."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(send, work, given))
    process.start()
    send.close()
    found: dict[str, Any] = receive.recv()
    process.join()
    print(work.__name__, *given[1:], {k: v for k, v in found.items() if len(str(v)) < 20}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faces", type=int, nargs="*", default=FACES)
    parser.add_argument("--images", type=int, nargs="*", default=IMAGES)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--no-record", action="store_true")
    given = parser.parse_args()
    faces, images = list[dict[str, Any]](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        folder = Path(name)
        for count in given.faces:
            shards_of(folder / "faces", count)
            row = {"faces": count, "build": measured(build, folder / "faces", count),
                   "mapped": measured(mapped_worker, folder / "faces", count),
                   "one_process": measured(one_process, folder / "faces", count)}  # fmt: skip
            row["same_verdicts"] = row["mapped"]["verdicts"] == row["one_process"]["verdicts"]  # type: ignore[index]
            faces.append(row)
        for count in given.images:
            small_images(folder / "images", count)
            images.append({"images": count, "scan": measured(scan_small, folder, count, 1),
                           "shuffle_4_mib": measured(shuffle_small, folder, count, 4 << 20)})  # fmt: skip
        if images:
            last, count = images[-1], given.images[-1]
            last["scan_by_two"] = measured(scan_small, folder, count, 2)
            last["shuffle_1_gib"] = measured(shuffle_small, folder, count, 1 << 30)
            last["same_table"] = last["scan"]["table"] == last["scan_by_two"]["table"]
            last["same_release"] = last["shuffle_4_mib"]["files"] == last["shuffle_1_gib"]["files"]
    assert all(row["same_verdicts"] for row in faces)
    assert all(row.get(name, True) for row in images for name in ("same_table", "same_release"))
    before = json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else {}
    found = {"machine": f"{platform.machine()}, one thread", "faces": faces or before.get("faces"),
             "images": images or before.get("images")}  # fmt: skip
    print(json.dumps(found, indent=1))
    if not given.no_record:
        EVIDENCE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
