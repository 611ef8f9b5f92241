"""Running a job on one machine: threads around one device, or one process for each of several."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.engine.batch_size import remember
from pipeline.engine.events import Event, Scanned, ShardDone
from pipeline.engine.gate import open_gate
from pipeline.engine.process import process
from pipeline.engine.reading import open_input
from pipeline.errors import UserError
from pipeline.job.hashes import identity
from pipeline.job.outputs import shape_of
from pipeline.job.plan import Plan
from pipeline.orphans import follow_parent
from pipeline.streams.contract import InputShard
from pipeline.streams.job_records import Job, Manifest, StatedLicence
from pipeline.streams.ledger import Ledger, OnChange

POLL_SECONDS = 1.0
"""Seconds between two looks whether a silent worker still lives."""


def run_job(
    plan: Plan, *, on_change: OnChange = "refuse", observe: Callable[[Event], None] = lambda event: None,
    begin: Callable[[int, int], None] = lambda finished, total: None,
) -> Manifest:  # fmt: skip
    """Does what is left of a job and returns its manifest.

    `begin(finished, total)` is told how many shards there are, and `observe` everything that happens afterwards. Raises
    `UserError` for what the user can mend. After a crash or Ctrl-C, finished shards stay finished, and the same call
    goes on from there.
    """
    stream, devices = open_input(plan), plan.devices
    job = job_of(plan)
    with Ledger(Path(plan.config.output.path)).open(job, on_change) as ledger:
        if plan.config.model is not None and plan.config.model.batch_size == "auto":
            remember(ledger.root, plan.hashes, plan.batch_size)
        todo = ledger.pending(stream.shards, on_change)
        total = len(stream.shards)
        begin(total - len(todo), total)
        ledger.log("start", shards=total, todo=len(todo), devices=devices)
        if plan.config.anonymity is not None and todo:
            scan_apart(plan, observe)
        if len(devices) == 1 or plan.config.limit:
            events = process(todo, plan, stream, ledger, devices[0])
        else:
            events = process_on_many(todo, plan)
        try:
            with closing(events):
                for event in events:
                    observe(event)
                    if isinstance(event, ShardDone):
                        ledger.log("shard", shard=event.record.shard, **event.record.counts.model_dump())
            if plan.config.limit:
                total = len(ledger.records())  # the shards that the limit reached are all there are
        finally:
            manifest = ledger.write_manifest(job, total)
            ledger.log("stop", **manifest.shards.model_dump(), **manifest.counts.model_dump())
        return manifest


def job_of(plan: Plan) -> Job:
    """The record of a plan's job."""
    licences = {path: StatedLicence(**asdict(licence)) for path, licence in plan.licences.items()}
    shape = shape_of(plan.config.operator)
    return Job(config=identity(plan.config), hashes=plan.hashes, outputs=shape, licences=licences)


def scan_apart(plan: Plan, observe: Callable[[Event], None]) -> None:
    """Scans the originals in a process of its own, so that its memory is free again when the models are loaded."""
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    worker = context.Process(target=_scan, args=(plan, events))
    worker.start()
    try:
        for event in received(events, [worker]):
            observe(event)
        worker.join()
    finally:
        worker.terminate()
        worker.join()


def process_on_many(todo: Sequence[InputShard], plan: Plan) -> Generator[Event, None, None]:
    """Runs one process for each device; each takes the next shard when it has finished one."""
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    for shard in todo:
        tasks.put(shard.name)
    # a daemon may have no processes of its own, as the gate does; none of them outlives its parent
    workers = [context.Process(target=_work, args=(plan, device, tasks, events)) for device in plan.devices]
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.start()
    try:
        yield from received(events, workers)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def received(events: Any, workers: Sequence[Any]) -> Iterator[Event]:
    """Yields what the workers send, until each has sent None.

    Raises the `UserError` that one sends, and one for a dead worker.
    """
    running = len(workers)
    while running:
        try:
            event = events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead:
                raise UserError(
                    f"a worker process died (exit code {dead[0].exitcode}); finished shards are kept, run again"
                ) from None
            continue
        if event is None:
            running -= 1
        elif isinstance(event, UserError):
            raise event
        else:
            yield event


def _scan(plan: Plan, events: Any) -> None:
    follow_parent()
    try:
        with open_gate(plan, plan.devices[0], seen=lambda images: events.put(Scanned(images))):
            events.put(None)
    except UserError as error:
        events.put(error)


def _work(plan: Plan, device: str, tasks: Any, events: Any) -> None:
    follow_parent()
    stream = open_input(plan)
    shards = {shard.name: shard for shard in stream.shards}

    def assigned() -> Iterator[InputShard]:
        while (name := tasks.get()) is not None:
            yield shards[name]

    try:
        for event in process(assigned(), plan, stream, Ledger(Path(plan.config.output.path)), device):
            events.put(event)
        events.put(None)
    except UserError as error:
        events.put(error)
    except OSError as error:
        events.put(UserError(f"{error.filename or device}: {error.strerror or error}"))
