"""How fast a job is: some of it is done for real, in a temporary folder, and timed."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle

from pipeline.engine.events import Noted, Progress, ShardDone
from pipeline.engine.process import process
from pipeline.engine.running import job_of
from pipeline.job.classes import Classes
from pipeline.job.plan import Plan
from pipeline.streams.contract import InputStream
from pipeline.streams.ledger import Ledger

WARM_UP, TIMED = 0.5, 2.0
"""Seconds after the first batch in which nothing is timed, since later batches were begun while the models loaded, and
seconds that are timed, at least; each ends with a batch."""


@dataclass
class Probe:
    """What a probe has seen since its clock was started."""

    seconds: float = 0.0
    read: int = 0
    """Samples that came in."""
    images: int = 0
    """Images that were written; a clip counts as one."""
    rejected: int = 0
    """Samples that went to quarantine."""
    notes: list[str] = field(default_factory=list)
    """What people should know of how samples were understood."""


def probe(plan: Plan, stream: InputStream, classes: Classes) -> Probe:
    """Reads, decodes, transforms, encodes and writes samples of the stream's shards, again and again, as the job does.

    It ends with the first batch after `WARM_UP` and `TIMED` seconds; nothing is left of what was written.
    """
    found, began, clock, ended = Probe(), None, None, 0
    with (
        tempfile.TemporaryDirectory(prefix="doppel-probe-") as folder,
        Ledger(folder).open(job_of(plan, classes)) as ledger,
        closing(process(cycle(stream.shards), plan, stream, classes, ledger, plan.devices[0])) as events,
    ):
        for event in events:
            now = time.perf_counter()
            if isinstance(event, Noted):
                found.notes.append(event.text)
            elif isinstance(event, ShardDone):
                ledger.forget(event.record.shard)  # it comes round again
                ended += 1
                if began is None and ended == len(stream.shards):
                    break  # there is nothing in them
            elif not isinstance(event, Progress) or not event.read:
                continue
            elif clock is None:
                began = began or now
                clock = now if now - began >= WARM_UP else None
            else:
                found.read += event.read
                found.images += event.images
                found.rejected += event.rejected
                found.seconds = now - clock
                if found.seconds >= TIMED:
                    break
    return found
