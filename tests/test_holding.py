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
from pipeline.engine.holding import Budget, held_at_all, held_by
from pipeline.engine.planning import make_plan
from pipeline.engine.prefetch import prefetch
from pipeline.engine.reading import Limited, Reader, open_input
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.media.records import Batch, Rejected, Sample
from tests import builders


def batch(weight: int) -> Batch:
    bad = Rejected(key="", reason="", kind="refused", origin="", members={"bin": bytes(weight)})
    return Batch(shard="s", fingerprint="", rows=[], rejected=[bad], read=1, last=False)


@pytest.mark.parametrize(("weights", "most"), [([5] * 30, 12), ([1] * 30, 99), ([50, 1, 50, 1] * 6, 51)])
def test_what_lies_between_reading_and_writing_is_bounded_by_bytes(weights: list[int], most: int) -> None:
    budget, inside, heaviest = Budget(most), list[int](), 0

    def noted(batches: Iterator[Batch]) -> Iterator[Batch]:
        nonlocal heaviest
        for one in batches:
            inside.append(len(one.rejected[0].members["bin"]))
            heaviest = max(heaviest, sum(inside))
            yield one

    seen = list[int]()
    for one in budget.release(prefetch(noted(budget.admit(map(batch, weights))), 30)):
        time.sleep(0.001)
        seen.append(len(one.rejected[0].members["bin"]))
        inside.pop(0)
    assert seen == weights
    assert heaviest <= max(most, *weights) + max(weights)  # the one that goes out has left `inside` before its room
    assert heaviest > min(weights)  # it does work ahead


def test_an_early_end_leaves_no_thread_waiting() -> None:
    before, budget = threading.active_count(), Budget(1)
    waiting = prefetch(budget.admit(batch(5) for _ in range(100)), 2)
    next(waiting)
    time.sleep(0.05)
    budget.close()
    waiting.close()
    assert threading.active_count() == before


def test_an_error_while_writing_ends_a_job_that_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.streams.shards import TarWriter

    source = builders.tar(tmp_path / "in.tar", [(f"{i:02d}.png", builders.picture(i, (200, 200))) for i in range(60)])

    def full(self: TarWriter, samples: Any) -> None:
        time.sleep(0.2)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TarWriter, "add", full)
    content = builders.recipe(source, tmp_path / "out", None, **{"run.memory": 1 << 20})
    with pytest.raises(OSError, match="No space left"):
        run_job(make_plan(validate(JobConfig, content, "test")))


def batches(source: Path, out: Path, **changes: Any) -> list[Batch]:
    plan = make_plan(validate(JobConfig, builders.recipe(source, out, None, **changes), "test"))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        stream, classes = open_input(plan)
        return list(Reader(plan, classes, pool)(stream.shards))


def test_a_batch_is_cut_by_its_bytes(tmp_path: Path) -> None:
    members = [(f"{i:02d}.png", builders.picture(i, (100, 100))) for i in range(20)]
    source = builders.tar(tmp_path / "in.tar", members)
    few = batches(source, tmp_path / "out", **{"run.memory": 1 << 20})
    assert max(held_at_all(batch.rows, batch.rejected) for batch in few) < (1 << 20) // 16 + 60_000
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
from pipeline.engine.running import run_job
from pipeline.engine.planning import make_plan
from pipeline.job.config import JobConfig

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

plan, before = make_plan(validate(JobConfig, json.loads(sys.argv[1]), "test")), peak()
assert run_job(plan).counts.images == 120
print(peak() - before)
"""


def test_the_weight_of_a_sample_counts_its_pixels() -> None:
    image = builders.picture(0, (300, 200))
    sample = Sample(key="", image=image, image_ext="png", members={"bin": bytes(7)})
    assert held_by(sample) == len(image) + 7 + 6 * 300 * 200
    assert held_by(Sample(key="", image=b"no image", image_ext="png")) == 8


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
