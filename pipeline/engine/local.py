"""Running a job on one machine: threads around one device, or one process for each of several."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.engine.batch_size import remember
from pipeline.engine.events import Event, Noted, Progress, Scanned, ShardDone
from pipeline.engine.gate import open_gate
from pipeline.engine.labels import Tolerance, check_first
from pipeline.engine.process import process
from pipeline.engine.reading import open_input
from pipeline.errors import UserError
from pipeline.job.classes import Classes
from pipeline.job.hashes import identity
from pipeline.job.outputs import shape_of
from pipeline.job.plan import Plan
from pipeline.main_guard import check_main_guard
from pipeline.orphans import follow_parent, undisturbed
from pipeline.streams.apart import check_apart
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.job_records import Job, Manifest, StatedLicence
from pipeline.streams.ledger import Ledger
from pipeline.streams.private import make_private_folder, private_umask
from pipeline.streams.reconciling import OnChange, Retry, Work, reconcile, settle
from pipeline.streams.written import READ_BACK

POLL_SECONDS = 1.0
"""Seconds between two looks whether a silent worker still lives."""


def run_job(
    plan: Plan, *, on_change: OnChange = "refuse", prune: bool = False, verify: bool = False,
    retry_quarantine: bool = False,
    observe: Callable[[Event], None] = lambda event: None,
    begin: Callable[[int, int], None] = lambda finished, total: None,
) -> Manifest:  # fmt: skip
    """Does what is left of a job and returns its manifest.

    Finished shards are compared with today's input and outputs first: `on_change` says what happens where they differ,
    `prune` removes what is gone from the input, `verify` hashes the outputs, and `retry_quarantine` does what is in
    quarantine again. `begin(finished, total)` is told how many shards there are, and `observe` everything that happens
    afterwards. Raises `UserError` for what the user can mend. After a crash or Ctrl-C, finished shards stay finished,
    and the same call goes on from there.
    """
    if plan.config.anonymity is not None or (len(plan.devices) > 1 and not plan.config.limit):
        check_main_guard("the job")
    (stream, classes), devices, limit = open_input(plan), plan.devices, plan.config.limit
    names = [shard.name for shard in stream.shards]
    job, ledger = job_of(plan, classes), Ledger(Path(plan.config.output.path))
    check_apart(ledger.root, stream)
    if stream.shards and (on_change == "overwrite" or ledger.record(stream.shards[0].name) is None):
        check_first(plan, stream.shards, classes)
    with confidential(plan), ledger.open(job, keep=on_change == "keep", overwrite=on_change == "overwrite"):
        if plan.config.anonymity is not None:
            make_private_folder(ledger.root)
        standing = reconcile(ledger, stream, limit=limit, verify=verify, retry_damaged=plan.config.on_damage == "fail")
        retry = retry_of(plan) if retry_quarantine else None
        work = settle(ledger, standing, on_change, limit=limit, prune=prune, retry=retry)
        todo = {shard.name for shard in work.shards}
        tolerance = Tolerance(plan, classes, sum(r.counts.unread for r in ledger.records() if r.shard not in todo))
        told = set[str]()

        def note(text: str) -> None:
            if text not in told:
                told.add(text)
                observe(Noted(text))
                ledger.log("note", text=text)

        for text in (*stream.notes, *plan.notes, *work.notes):
            note(text)
        if plan.config.model is not None and plan.config.model.batch_size == "auto":
            remember(ledger.root, plan.hashes, plan.batch_size)
        begin(len(names) - len(work.shards), len(names))
        ledger.log("start", shards=len(names), todo=len(work.shards), devices=devices)
        if plan.config.anonymity is not None and work.shards:
            scan_apart(plan, observe)
        if len(devices) == 1 or plan.config.limit:
            events = process(
                work.shards, plan, stream, classes, ledger, devices[0],
                remaining=work.room, unlimited=work.whole, failed=work.failed,
            )  # fmt: skip
        else:
            events = process_on_many(work, plan)
        try:
            with closing(events):
                for event in events:
                    if isinstance(event, Noted):
                        note(event.text)  # each worker tells it once
                        continue
                    observe(event)
                    if isinstance(event, Progress):
                        tolerance.add(event.unread)
                    if isinstance(event, ShardDone):
                        ledger.log("shard", shard=event.record.shard, **event.record.counts.model_dump())
        finally:
            kept = [shard.name for shard in standing.changed] if on_change == "keep" else []
            manifest = ledger.write_manifest(job, names, limit=limit, changed=kept)
            ledger.log("stop", **manifest.shards.model_dump(), **manifest.counts.model_dump())
        return manifest


def retry_of(plan: Plan) -> Retry:
    """Whether samples can be done again without their shard.

    They can not where the bytes or the order of others hang on them: frames of clips do, guides that lie before, and
    whatever goes round again at another level.
    """
    config = plan.config
    alone = not (config.anonymity or config.clip or config.video or (config.guide and config.guide.previous))
    return "samples" if alone and config.output.format in READ_BACK else "shards"


def confidential(plan: Plan) -> AbstractContextManager[None]:
    """Within it, whatever is written is its owner's alone, where the job's images show people."""
    return nullcontext() if plan.config.anonymity is None else private_umask()


def job_of(plan: Plan, classes: Classes) -> Job:
    """The record of a plan's job. It does not name the classes where images show people: they may be called so."""
    licences = {path: StatedLicence(**asdict(licence)) for path, licence in plan.licences.items()}
    shape = shape_of(plan.config.operator)
    shown = None if plan.config.anonymity is not None or classes.shown is None else dict(classes.shown)
    return Job(
        config=identity(plan.config), hashes=plan.hashes, outputs=shape, licences=licences, found=plan.found,
        classes=shown,
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


def process_on_many(work: Work, plan: Plan) -> Generator[Event, None, None]:
    """Runs one process for each device; each takes the next shard when it has finished one."""
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
