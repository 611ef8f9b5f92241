"""The engine of one machine: threads around one device, or one process for each of several."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.events import Event, Scanned
from pipeline.engine.gate import open_gate
from pipeline.engine.process import process
from pipeline.engine.reading import open_input
from pipeline.engine.run import Run, confidential
from pipeline.errors import UserError
from pipeline.job.plan import Plan
from pipeline.orphans import follow_parent, undisturbed
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.ledger import Ledger

POLL_SECONDS = 1.0
"""Seconds between two looks whether a silent worker still lives."""


def local(run: Run) -> Generator[Event, None, None]:
    """Does the work in this process on one device, and in a process for each of several; see `Engine`."""
    plan, work = run.plan, run.work
    if len(plan.devices) > 1 and not plan.config.limit:
        yield from process_on_many(run)
        return
    yield from process(
        run.claimed(), plan, run.stream, run.classes, run.ledger, plan.devices[0],
        remaining=work.room, unlimited=work.whole, failed=work.failed,
    )  # fmt: skip


def scan_apart(plan: Plan, observe: Callable[[Event], None]) -> None:
    """Scans the originals in a process of its own, so that its memory is free again when the models are loaded."""
    context = multiprocessing.get_context("spawn")
    with undisturbed():
        events = context.Queue()
    worker = context.Process(target=_scan, args=(plan, events))
    try:
        with undisturbed():
            worker.start()
        for event in received(events, [worker]):
            observe(event)
        worker.join()
    finally:
        end([worker])


def process_on_many(run: Run) -> Generator[Event, None, None]:
    """Runs one process for each device; each takes the next shard when it has finished one."""
    plan, work = run.plan, run.work
    context = multiprocessing.get_context("spawn")
    with undisturbed():
        tasks, events = context.Queue(), context.Queue()
    for shard in work.shards:
        tasks.put(shard.name)
    # a daemon may have no processes of its own, as the gate does; none of them outlives its parent
    workers = [
        context.Process(target=_work, args=(plan, device, work.failed, tasks, events)) for device in plan.devices
    ]
    for _ in workers:
        tasks.put(None)
    try:
        with undisturbed():
            for worker in workers:
                worker.start()
        yield from received(events, workers)
        for worker in workers:
            worker.join()
    finally:
        end(workers)


def end(workers: Sequence[Any]) -> None:
    """Ends the workers that were started, and waits for them."""
    started = [worker for worker in workers if worker.pid is not None]
    for worker in started:
        worker.terminate()
    for worker in started:
        worker.join()


def received(events: Any, workers: Sequence[Any]) -> Iterator[Event]:
    """Yields what the workers send, until each has sent None.

    Raises the `UserError` or `OSError` that one sends, and a `UserError` for a dead worker.
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
        elif isinstance(event, UserError | OSError):
            raise event
        else:
            yield event


def _scan(plan: Plan, events: Any) -> None:
    follow_parent()
    try:
        with open_gate(plan, plan.devices[0], seen=lambda images: events.put(Scanned(images))):
            events.put(None)
    except (UserError, OSError) as error:
        events.put(error)


def _work(plan: Plan, device: str, failed: frozenset[str], tasks: Any, events: Any) -> None:
    follow_parent()

    def assigned(stream: InputStream) -> Iterator[InputShard]:
        shards = {shard.name: shard for shard in stream.shards}
        while (name := tasks.get()) is not None:
            yield shards[name]

    try:
        stream, classes = open_input(plan)
        ledger = Ledger(Path(plan.config.output.path))
        with confidential(plan):
            for event in process(assigned(stream), plan, stream, classes, ledger, device, failed=failed):
                events.put(event)
        events.put(None)
    except (UserError, OSError) as error:
        events.put(error)
