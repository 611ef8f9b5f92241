"""What waits between the stages of a job is bounded by bytes, and the bound changes no byte of the output."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import validate
from pipeline.engine.holding import held_in
from pipeline.engine.local import run_job
from pipeline.engine.planning import make_plan
from pipeline.engine.prefetch import prefetch
from pipeline.engine.reading import Limited, Reader, open_input
from pipeline.job.config import JobConfig
from pipeline.media.records import Batch, Rejected, Sample
from tests import builders


@pytest.mark.parametrize(
    ("weights", "depth", "most"), [([5] * 20, 9, 12), ([1] * 20, 3, 99), ([50, 1, 50, 1] * 5, 4, 51)]
)
def test_what_waits_is_bounded_by_number_and_by_weight(weights: list[int], depth: int, most: int) -> None:
    made, used, heaviest = list[int](), list[int](), list[int]()

    def items() -> Iterator[int]:
        for weight in weights:
            waiting = made[len(used) :]
            heaviest.append(sum(waiting))
            assert len(waiting) <= depth + 1  # one is in the hands of the consumer
            made.append(weight)
            yield weight

    for item in prefetch(items(), depth, most=most, weigh=lambda weight: weight):
        time.sleep(0.002)
        used.append(item)
    assert used == weights
    assert max(heaviest) <= max(most, *weights) + max(weights)
    assert max(heaviest) >= min(most, depth) // 2  # it does work ahead


def test_an_error_of_the_consumer_stops_the_thread() -> None:
    before, closed = threading.active_count(), threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    waiting = prefetch(items(), 2, most=10, weigh=lambda item: item)
    next(waiting)
    waiting.close()
    assert closed.wait(5)
    assert threading.active_count() == before


def batches(source: Path, out: Path, **changes: Any) -> list[Batch]:
    plan = make_plan(validate(JobConfig, builders.recipe(source, out, None, **changes), "test"))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        return list(Reader(plan, None, pool)(open_input(plan).shards))


def test_a_batch_is_cut_by_its_bytes(tmp_path: Path) -> None:
    members = [(f"{i:02d}.png", builders.picture(i, (100, 100))) for i in range(20)]
    source = builders.tar(tmp_path / "in.tar", members)
    few = batches(source, tmp_path / "out", **{"run.memory": 1 << 20})
    assert max(held_in(batch) for batch in few) < (1 << 20) // 16 + 60_000
    assert max(len(batch.rows) for batch in few) <= 3
    many = batches(source, tmp_path / "out")
    assert [len(batch.rows) for batch in many] == [20]
    assert [row.sample.key for batch in few for row in batch.rows] == [row.sample.key for row in many[0].rows]
    assert sum(batch.read for batch in few) == many[0].read == 20
    assert [batch.last for batch in few] == [False] * (len(few) - 1) + [True]


def test_rejected_samples_leave_with_their_batch(tmp_path: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [(f"{i:02d}.png", bytes(100_000)) for i in range(20)])
    found = batches(source, tmp_path / "out", **{"run.memory": 1 << 20})
    assert max(len(batch.rejected) for batch in found) == 1
    assert sum(len(batch.rejected) for batch in found) == sum(batch.read for batch in found) == 20


@pytest.mark.parametrize("with_model", [False, True])
def test_memory_changes_no_byte(tmp_path: Path, model: Path, with_model: bool) -> None:
    members = [(f"{i:02d}.png", builders.picture(i, (300, 200))) for i in range(9)]
    members = [pair for i, one in enumerate(members) for pair in (one, (f"{i:02d}.cls", b"1"))]
    source, outs = builders.tar(tmp_path / "in.tar", members), []
    for memory in (1 << 20, 1 << 30):
        out = tmp_path / str(memory)
        content = builders.recipe(source, out, model if with_model else None, **{"run.memory": memory})
        assert run_job(make_plan(validate(JobConfig, content, "test"))).counts.images == 9
        outs.append(builders.tree(out, "data"))
    assert outs[0] == outs[1]


@pytest.mark.parametrize(("most", "cut"), [(None, False), (0, True), (2, True), (3, False), (4, False)])
def test_a_limit_tells_whether_it_has_cut(most: int | None, cut: bool) -> None:
    items: list[Sample | Rejected] = [Sample(key=str(i), image=b"", image_ext="png") for i in range(3)]
    items.insert(1, Rejected(key="", reason="", kind="damaged", origin=""))
    limited = Limited(iter(items), most)
    taken = [item for item in limited if isinstance(item, Sample)]
    assert len(taken) == limited.taken == (3 if most is None else min(most, 3))
    assert limited.cut() == cut


RUN = """
import json, resource, sys
import torch
from pipeline.config import validate
from pipeline.engine.local import run_job
from pipeline.engine.planning import make_plan
from pipeline.job.config import JobConfig

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

plan, before = make_plan(validate(JobConfig, json.loads(sys.argv[1]), "test")), peak()
assert run_job(plan).counts.images == 120
print(peak() - before)
"""


@pytest.mark.slow
def test_photographs_of_three_megapixels_pass_through_in_bounded_memory(tmp_path: Path) -> None:
    """Before, 64 of them were decoded at a time, and ten batches waited: 2 GB."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.resize((2000, 1500)).save(buffer, "JPEG", quality=60)
    source = builders.tar(tmp_path / "in.tar", [(f"{i:03d}.jpg", buffer.getvalue()) for i in range(120)])
    content = builders.recipe(source, tmp_path / "out", None, **{"output.codec": "jpeg", "run.memory": 128 << 20})
    import json

    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(content)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400 << 20
