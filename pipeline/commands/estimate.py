"""What a job would do and cost, from one probe batch."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.engine.batch_size import BatchSize
from pipeline.engine.local import fitted, resolve_devices
from pipeline.engine.reading import Reader
from pipeline.engine.transforming import load_models, transform

if TYPE_CHECKING:
    from pipeline.job.plan import Plan


def estimate(plan: Plan) -> str:
    """Shards, images and time, as comments that follow a recipe; writes nothing.

    Images are counted in the first shard and assumed alike in the others; the first call of the network is not
    timed.
    """
    config = plan.config
    stream = config.input.open()
    device, *others = resolve_devices(config.run.devices)
    plan = fitted(plan, device, None)
    models, size = load_models(config, device), BatchSize(plan.batch_size)
    lines = [f"# shards: {len(stream.shards)}, device: {', '.join([device, *others])}"]
    if not stream.shards:
        return "\n".join(lines)
    with ThreadPoolExecutor(config.run.workers) as pool:
        for batch in islice(Reader(plan, models.first, pool)(stream.shards[:1]), 1):
            transform(batch.rows, models, plan, device, size)
            started = time.perf_counter()
            transform(batch.rows, models, plan, device, size)
            frames = sum(len(row.reel.seconds) if row.reel else 1 for row in batch.rows) / max(len(batch.rows), 1)
            seconds = frames * (time.perf_counter() - started) / max(len(batch.rows), 1)
    first = sum(1 for _ in stream.shards[0].read())
    total = min(first * len(stream.shards), config.limit or first * len(stream.shards))
    copies = config.operator.copies if config.operator else 1
    hours = total * seconds / (1 + len(others)) / 3600
    lines.append(f"# images: about {total} in, {total * copies} out ({first} in the first shard)")
    lines.append(
        f"# probe batch: {copies / max(seconds, 1e-9):.1f} images/s a device; the job: about {_duration(hours)}"
    )
    return "\n".join(lines)


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
