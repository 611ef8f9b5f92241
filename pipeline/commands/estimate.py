"""What a job would do and what it would cost, measured on one batch."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from pipeline.engine.labels import probe
from pipeline.engine.reading import Reader, open_input
from pipeline.engine.transforming import transform_all
from pipeline.job.classes import in_words
from pipeline.job.plan import Plan


def estimate(plan: Plan) -> str:
    """Shards, images and time as comment lines that follow a recipe; writes nothing.

    Images are counted in the first shard, and the other shards are assumed to be like it. The first call of the network
    is not timed.
    """
    config, (stream, classes) = plan.config, open_input(plan)
    lines = [f"# shards: {len(stream.shards)}, device: {', '.join(plan.devices)}"]
    if not stream.shards:
        return "\n".join(lines)
    probe(plan, stream.shards, classes)
    if classes.shown is not None:
        lines.append(f"# classes, data set → model: {in_words(classes.shown)}")
    with ThreadPoolExecutor(config.run.workers) as pool:
        batch = next(Reader(plan, classes, pool)(stream.shards[:1]))
    made = transform_all([batch, batch], plan, plan.devices[0])
    next(made)
    started = time.perf_counter()
    next(made)
    frames = sum(len(row.reel.seconds) if row.reel else 1 for row in batch.rows) / max(len(batch.rows), 1)
    seconds = frames * (time.perf_counter() - started) / max(len(batch.rows), 1)
    first = sum(1 for _ in stream.shards[0].read())
    total = min(first * len(stream.shards), config.limit or first * len(stream.shards))
    copies = config.operator.copies if config.operator else 1
    hours = total * seconds / len(plan.devices) / 3600
    lines.append(f"# images: about {total} in, {total * copies} out ({first} in the first shard)")
    lines.append(
        f"# probe batch: {copies / max(seconds, 1e-9):.1f} images/s a device; the job: about {_duration(hours)}"
    )
    return "\n".join(lines)


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
