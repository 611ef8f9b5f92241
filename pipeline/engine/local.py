"""The engine of one machine: threads around one device, or a process for each device that may die and is replaced."""

from __future__ import annotations

from collections.abc import Callable, Generator

from pipeline.engine.events import Event, Scanned
from pipeline.engine.gate import open_gate
from pipeline.engine.process import process
from pipeline.engine.run import Run
from pipeline.engine.sites import Devices
from pipeline.engine.supervising import supervised, work_through
from pipeline.engine.worker import Channel, Worker, events_of
from pipeline.job.plan import Plan


def local(run: Run) -> Generator[Event, None, None]:
    """Does the work in this process, or in others where there are several devices or one may die; see `Engine`.

    Processes may die where `run.timeout` kills them, and where one did before.
    """
    plan, work = run.plan, run.work
    devices = plan.devices[:1] if plan.config.limit else plan.devices  # who is first decides what a limit leaves out
    if len(devices) > 1 or run.died or plan.config.run.timeout is not None:
        yield from supervised(run, Devices(devices, work_through))
        return
    yield from process(
        run.claimed(), plan, run.stream, run.classes, run.ledger, devices[0],
        remaining=work.room, unlimited=work.whole, failed=work.failed,
    )  # fmt: skip


def scan_apart(plan: Plan, observe: Callable[[Event], None]) -> None:
    """Scans the originals in a process of its own, so that its memory is free again when the models are loaded."""
    for event in events_of(Worker(_scan, plan, secret=True), "the scan of the originals", plan.config.run.timeout):
        observe(event)


def _scan(channel: Channel, plan: Plan) -> None:
    with open_gate(plan, plan.devices[0], seen=lambda images: channel.send(Scanned(images))):
        pass
