"""The originals are scanned by processes of their own, replaced when they die; a shard that kills them is named."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.engine.dispensing import Dispenser
from pipeline.engine.events import Event, Scanned
from pipeline.engine.scanning import join_originals, scan_shards, unscanned
from pipeline.engine.worker import Asks, Channel, Died, Worker, end, events_of, heard, hung
from pipeline.errors import UserError
from pipeline.job.plan import Plan

WHAT = "the scan of the originals"


def scan_apart(plan: Plan, observe: Callable[[Event], None]) -> None:
    """Scans what is left of the originals, on all devices, so that the memory is free again when models are loaded.

    Raises `UserError` for a shard that has ended `run.tries` processes: without its faces nothing may be certified.
    """
    if not (names := unscanned(plan)):
        return
    queue, free, since = Dispenser(names, plan.config.run.tries), list(plan.devices), dict[Worker, float]()
    on, idle_deaths, timeout = dict[Worker, str](), 0, plan.config.run.timeout
    try:
        while not queue.over or on:
            while free and queue.left and len(on) < queue.unfinished:
                worker = Worker(_scan, plan, free[0], secret=True)
                on[worker], since[worker] = free.pop(0), time.monotonic()
                worker.start()
            speaking = heard(on)
            for worker in list(on):
                if worker not in speaking:
                    if timeout and queue.held(worker) and time.monotonic() - since[worker] > timeout:
                        worker.kill(hung(timeout))
                    continue
                since[worker] = time.monotonic()
                try:
                    message = worker.receive()
                except Died as death:
                    idle_deaths += not queue.held(worker)
                    _bury(queue, worker, str(death), idle_deaths)
                    message = None
                if message is None:
                    free.append(on.pop(worker))
                    worker.join()
                elif isinstance(message, Asks):
                    for done in queue.held(worker):
                        queue.done(worker, done)
                    worker.answer(queue.give(worker))
                else:
                    observe(message)
    finally:
        end(on)
    for event in events_of(Worker(_join, plan, secret=True), WHAT, None):
        observe(event)


def _bury(queue: Dispenser, worker: Worker, why: str, idle_deaths: int) -> None:
    queue.lost(worker, why)
    if queue.set_aside:
        aside = queue.set_aside[-1]
        raise UserError(
            f"{WHAT}: shard {aside.shard} ended {aside.tries} processes ({why}); mend it, or take it out of the input"
        )
    if idle_deaths > 1:
        raise UserError(f"{WHAT}: {idle_deaths} processes died before they had a shard, the last: {why}")


def _scan(channel: Channel, plan: Plan, device: str) -> None:
    scan_shards(plan, device, iter(channel.next_shard, None), lambda images: channel.send(Scanned(images)))


def _join(channel: Channel, plan: Plan) -> None:
    join_originals(plan)
