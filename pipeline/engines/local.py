"""One machine: threads around one device, or one process for each of several."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.identity import identity
from pipeline.job import Job
from pipeline.memory import remembered
from pipeline.run import Event, ShardDone, process
from pipeline.streams.contract import InputShard
from pipeline.streams.ledger import Ledger, OnChange
from pipeline.transforming import try_sizes

POLL_SECONDS = 1.0


def run_job(
    job: Job, *, on_change: OnChange = "refuse", observe: Callable[[Event], None] = lambda event: None,
    begin: Callable[[int, int], None] = lambda finished, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Does what is left of a job and returns its manifest.

    `begin(finished, total)` is told how many shards there are, `observe` everything that happens after. Raises
    `UserError` for what the user can mend; a crash or Ctrl-C leaves finished shards finished, and the same call goes
    on from there.
    """
    stream = job.config.input.open()
    devices = resolve_devices(job.config.run.devices)
    licences = {path: asdict(licence) for path, licence in job.licences.items()}
    facts = {"config": identity(job.config), "hashes": job.hashes, "licences": licences}
    with Ledger(Path(job.config.output.path)).open(facts, on_change) as ledger:
        job = fitted(job, devices[0], ledger)
        todo = ledger.pending(stream.shards, on_change)
        total = len(stream.shards)
        begin(total - len(todo), total)
        ledger.log("start", shards=total, todo=len(todo), devices=devices)
        if len(devices) == 1 or job.config.limit:
            events = process(todo, job, stream, ledger, devices[0])
        else:
            events = process_on_many(todo, job, devices)
        try:
            with closing(events):
                for event in events:
                    observe(event)
                    if isinstance(event, ShardDone):
                        ledger.log("shard", shard=event.record["shard"], **event.record["counts"])
            if job.config.limit:
                total = len(ledger.records())  # the shards that the limit reached are all there are
        finally:
            manifest = ledger.write_manifest(facts, total)
            ledger.log("stop", **manifest["shards"], **manifest["counts"])
        return manifest


def fitted(job: Job, device: str, ledger: Ledger | None) -> Job:
    """The job with its batch size; `auto` is found out once, and remembered beside the ledger."""
    if job.config.model is None or job.config.model.batch_size != "auto":
        return job
    find = partial(try_sizes, job, device)
    return replace(job, fitted=find() if ledger is None else remembered(ledger.root / "batch_size.json", find))


def resolve_devices(names: Sequence[str]) -> list[str]:
    """`auto` → every CUDA device, or the CPU. Raises `UserError` for a device that is not there."""
    import torch

    found: list[str] = []
    for name in names:
        if name == "auto":
            count = torch.cuda.device_count()
            found += [f"cuda:{i}" for i in range(count)] or ["cpu"]
            continue
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"run.devices: {name!r} is not available here ({why})") from None
        found.append(name)
    return found


def process_on_many(todo: Sequence[InputShard], job: Job, devices: Sequence[str]) -> Generator[Event, None, None]:
    """One process a device; each takes the next shard when it has finished one."""
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    for shard in todo:
        tasks.put(shard.name)
    workers = [context.Process(target=_work, args=(job, device, tasks, events), daemon=True) for device in devices]
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.start()
    try:
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
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _work(job: Job, device: str, tasks: Any, events: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    stream = job.config.input.open()
    shards = {shard.name: shard for shard in stream.shards}

    def assigned() -> Iterator[InputShard]:
        while (name := tasks.get()) is not None:
            yield shards[name]

    try:
        for event in process(assigned(), job, stream, Ledger(Path(job.config.output.path)), device):
            events.put(event)
        events.put(None)
    except UserError as error:
        events.put(error)
    except OSError as error:
        events.put(UserError(f"{error.filename or device}: {error.strerror or error}"))


def _die_with_parent() -> None:
    """A worker that outlived a killed parent would write into a folder that nobody holds any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
