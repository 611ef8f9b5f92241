"""The engine of one machine: threads around one device, or a process for each device that may die and is replaced."""

from __future__ import annotations

from collections.abc import Generator

from pipeline.engine.events import Event
from pipeline.engine.process import process
from pipeline.engine.run import Run
from pipeline.engine.sites import Devices
from pipeline.engine.supervising import supervised, work_through


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
