"""One machine: threads around one device, or one process for each of several."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.engine.batch_size import free, remembered
from pipeline.engine.events import Event, Scanned, ShardDone
from pipeline.engine.gate import open_gate, with_gate
from pipeline.engine.process import process
from pipeline.engine.transforming import try_sizes
from pipeline.errors import UserError
from pipeline.job.plan import Plan, identity
from pipeline.orphans import follow_parent
from pipeline.streams.contract import InputShard
from pipeline.streams.ledger import Ledger, OnChange

POLL_SECONDS = 1.0


def run_job(
    plan: Plan, *, on_change: OnChange = "refuse", observe: Callable[[Event], None] = lambda event: None,
    begin: Callable[[int, int], None] = lambda finished, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Does what is left of a job and returns its manifest.

    `begin(finished, total)` is told how many shards there are, `observe` everything that happens after. Raises
    `UserError` for what the user can mend; a crash or Ctrl-C leaves finished shards finished, and the same call goes
    on from there.
    """
    stream = plan.config.input.open()
    devices = resolve_devices(plan.config.run.devices)
    plan = with_gate(plan)
    licences = {path: asdict(licence) for path, licence in plan.licences.items()}
    facts = {"config": identity(plan.config), "hashes": plan.hashes, "licences": licences}
    with Ledger(Path(plan.config.output.path)).open(facts, on_change) as ledger:
        plan = fitted(plan, devices[0], ledger)
        todo = ledger.pending(stream.shards, on_change)
        total = len(stream.shards)
        begin(total - len(todo), total)
        ledger.log("start", shards=total, todo=len(todo), devices=devices)
        if plan.config.anonymity is not None and todo:
            scan_apart(plan, devices[0], observe)
        if len(devices) == 1 or plan.config.limit:
            events = process(todo, plan, stream, ledger, devices[0])
        else:
            events = process_on_many(todo, plan, devices)
        try:
            with closing(events):
                for event in events:
                    observe(event)
                    if isinstance(event, ShardDone):
                        ledger.log("shard", shard=event.record["shard"], **event.record["counts"])
            if plan.config.limit:
                total = len(ledger.records())  # the shards that the limit reached are all there are
        finally:
            manifest = ledger.write_manifest(facts, total)
            ledger.log("stop", **manifest["shards"], **manifest["counts"])
        return manifest


def fitted(plan: Plan, device: str, ledger: Ledger | None) -> Plan:
    """The job with its batch size; `auto` is found out once, and remembered beside the ledger."""
    if plan.config.model is None or plan.config.model.batch_size != "auto":
        return plan

    def find() -> int:
        size = try_sizes(plan, device)
        free()  # the model is gone, and the processes of the job want what it lay in
        return size

    return replace(plan, fitted=find() if ledger is None else remembered(ledger.root / "batch_size.json", find))


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


def scan_apart(plan: Plan, device: str, observe: Callable[[Event], None]) -> None:
    """Scans the originals in a process of its own: what it computes with is gone when the models come."""
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    worker = context.Process(target=_scan, args=(plan, device, events))
    worker.start()
    try:
        for event in received(events, [worker]):
            observe(event)
        worker.join()
    finally:
        worker.terminate()
        worker.join()


def process_on_many(todo: Sequence[InputShard], plan: Plan, devices: Sequence[str]) -> Generator[Event, None, None]:
    """One process a device; each takes the next shard when it has finished one."""
    context = multiprocessing.get_context("spawn")
    tasks, events = context.Queue(), context.Queue()
    for shard in todo:
        tasks.put(shard.name)
    # a daemon may have no processes of its own, as the gate does; none of them outlives its parent
    workers = [context.Process(target=_work, args=(plan, device, tasks, events)) for device in devices]
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
    """What the workers send, until each has sent None. Raises the `UserError` that one sends, or for one that died."""
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


def _scan(plan: Plan, device: str, events: Any) -> None:
    follow_parent()
    try:
        with open_gate(plan, device, seen=lambda images: events.put(Scanned(images))):
            events.put(None)
    except UserError as error:
        events.put(error)


def _work(plan: Plan, device: str, tasks: Any, events: Any) -> None:
    follow_parent()
    stream = plan.config.input.open()
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
