"""How fast one job is, whole and once under way, and how long its scan of the originals takes."""

from __future__ import annotations

import shutil
import time
from typing import Any

from pipeline.engine.events import Event, Progress, Scanned
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig


def timed(config: JobConfig) -> dict[str, Any]:
    """Runs the job anew. Whole: with its models' loading. Steady: from its first batch to its end, None if that is one.

    Images that the gate sends to quarantine count too.
    """
    shutil.rmtree(config.output.path, ignore_errors=True)
    through: list[tuple[float, int]] = []
    scanned: list[float] = []

    def observe(event: Event) -> None:
        now = time.perf_counter()
        if isinstance(event, Scanned):
            scanned.append(now)
        elif isinstance(event, Progress) and event.images + event.rejected:
            through.append((now, event.images + event.rejected))

    started = time.perf_counter()
    counts = run_job(make_plan(config), observe=observe).counts
    ended = time.perf_counter()
    (first, _), (last, _) = through[0], through[-1]
    return {
        "counts": counts.model_dump(),
        "whole_images_per_s": counts.read / (ended - started),
        "steady_images_per_s": sum(images for _, images in through[1:]) / (last - first) if through[1:] else None,
        "seconds": ended - started,
        "seconds_to_first_batch": first - started,
    } | ({"seconds_until_scanned": scanned[-1] - started, "seconds_after": ended - scanned[-1]} if scanned else {})
