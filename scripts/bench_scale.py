"""What a job pays beside its images: planning, ledger and claims, on a disk and in a bucket; engines side by side.

    python scripts/bench_scale.py                             # all of it
    python scripts/bench_scale.py --shards 500 --only planning shard

planning  a job of many finished shards is opened again: its input is listed, its records are read and compared, and
          its totals are written; the same with none of them finished
shard     a claim is taken, a record is written, the claim is given back
engines   one job of small images by `doppel run`: local, Ray with 1 and 2 workers, as whole commands

The bucket is moto's server on loopback (moto[s3,server]), in this very process, whose CPU it takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.media.output_keys import Shape
from pipeline.streams import WebDatasetInput
from pipeline.streams.claims import Claims, new_owner
from pipeline.streams.contract import InputStream
from pipeline.streams.files import Stored
from pipeline.streams.job_records import Counts, Job, ShardRecord
from pipeline.streams.ledger import Ledger
from pipeline.streams.reconciling import reconcile, settle

EVIDENCE = Path(__file__).parent / "evidence" / "scale.json"
PARTS = ("planning", "shard", "engines")
EMPTY = Job(config={}, hashes={}, outputs=Shape(), licences={})
SAMPLE = "embedded:fashion_mnist/sample/*.tar.gz"


@contextmanager
def bucket() -> Iterator[str]:
    """The URL of an empty bucket on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    boto3.client("s3").create_bucket(Bucket="scale")
    try:
        yield "s3://scale"
    finally:
        server.stop()


def timed(work: Callable[[], object]) -> dict[str, float]:
    started, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": round(time.perf_counter() - started, 3), "cpu": round(time.process_time() - used, 3)}


def record_of(name: str, fingerprint: str, stream: InputStream) -> ShardRecord:
    hashes = dict.fromkeys(("config", "model", "second_model", "judge", "files", "code", "salt"), "0" * 64)
    return ShardRecord(
        shard=name, fingerprint=fingerprint, input_hash="0" * 64, classes=stream.classes(), code="0", hashes=hashes,
        counts=Counts(read=1, written=1, images=1), files={f"data/{name}.tar": Stored(sha256="0" * 64, bytes=1)},
        seconds=1.0,
    )  # fmt: skip


def planning(place: str, source: Path, shards: int) -> dict[str, Any]:
    """Seconds, and seconds of this process's CPU, to plan a job that is new, finished, and finished again."""
    for i in range(shards):
        (source / f"{i:06d}.tar").write_bytes(b"x")

    def plan() -> None:
        stream = WebDatasetInput(urls=(str(source / "*.tar"),)).open()
        ledger = Ledger(place)
        standing = reconcile(ledger, stream, limit=None, verify=False)
        settle(ledger, standing, "refuse", limit=None, prune=False)
        ledger.write_manifest(EMPTY, [shard.name for shard in stream.shards])

    found = {"shards": shards, "new": timed(plan)}
    stream, store = WebDatasetInput(urls=(str(source / "*.tar"),)).open(), Ledger(place).store

    def finish(number: int) -> None:
        shard = stream.shards[number]
        store.put(f"data/{shard.name}.tar", b"y")
        store.put(f"shards/{shard.name}.json", record_of(shard.name, shard.fingerprint(), stream).to_json().encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(finish, range(shards)))
    return found | {"finished": timed(plan), "again": timed(plan)}


def shard(place: str, count: int = 100) -> dict[str, float]:
    """Milliseconds of a claim, a record and the end of the claim; the median of many."""
    ledger, took = Ledger(place), list[float]()
    claims = Claims(ledger.store, new_owner(), lease=60)
    stream = WebDatasetInput(urls=(SAMPLE,)).open()
    for i in range(count):
        started = time.perf_counter()
        claims.take(f"shard-{i}")
        ledger.commit(record_of(f"shard-{i}", "0", stream))
        claims.release(f"shard-{i}")
        took.append(time.perf_counter() - started)
    return {"ms": round(1000 * statistics.median(took), 2), "ms_p95": round(1000 * sorted(took)[-count // 20], 2)}


ENGINES = {
    "local": (), "ray, 1 worker": ("--engine", "ray", "--workers", "1", "--gpus-per-worker", "0"),
    "ray, 2 workers": ("--engine", "ray", "--workers", "2", "--gpus-per-worker", "0"),
}  # fmt: skip
"""The ways to do one job, by what `doppel run` gets."""


def engines(folder: Path) -> dict[str, Any]:
    """Seconds of whole commands, and of the work on shards in them, which is the same for all."""
    found = {}
    for name, options in ENGINES.items():
        out = folder / name.replace(", ", "-").replace(" ", "-")
        settings = ["--set", f"output.path={out}", "--set", "operator.steps=2", "--set", "run.devices=[cpu]"]
        command = [sys.executable, "-m", "pipeline.cli", "run", "demo", *options, *settings]
        took = timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
        manifest = Ledger(out).manifest()
        assert manifest is not None
        found[name] = {"seconds": took["seconds"], "on_shards": manifest.seconds, "images": manifest.counts.images}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    found = json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else {}
    with tempfile.TemporaryDirectory() as folder, bucket() as url:
        root = Path(folder)
        places = {"disk": str(root / "job"), "s3": f"{url}/job"}
        (root / "in").mkdir()
        if "shard" in options.only:
            found["shard"] = {name: shard(f"{place}-shard") for name, place in places.items()}
        if "planning" in options.only:
            found["planning"] = {n: planning(place, root / "in", options.shards) for n, place in places.items()}
        if "engines" in options.only:
            found["engines"] = engines(root)
    found["machine"] = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
    EVIDENCE.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
