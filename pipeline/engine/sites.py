"""Where the workers of a crew come from: what a crew asks of such a place, and the devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.engine.events import Event
from pipeline.engine.run import Run
from pipeline.engine.worker import Asks, Worker, end, heard


class Hand(Protocol):
    """A worker, as the crew sees it."""

    def start(self) -> None:
        """Lets it begin. Whoever calls it must `end` the worker, also where a signal comes meanwhile."""
        ...

    def receive(self) -> Event | Asks | None:
        """The next message; None when the worker has ended in order.

        Raises the `UserError` or `OSError` that it sends, and `Died` where it is dead.
        """
        ...

    def answer(self, shard: str | None) -> None:
        """Gives a worker that `Asks` a shard, or None for no more."""
        ...

    def kill(self, why: str) -> None:
        """Kills it; `why`, as a part of a sentence, is what it died of then."""
        ...

    @property
    def asked_to_end(self) -> bool:
        """Whether it was a signal to end that ended it, which may reach this process as well."""
        ...


class Site(Protocol):
    """A place with workers that do shards."""

    def hire(self, run: Run, room: int | None) -> Hand | None:
        """A further worker, not started yet; None where there shall be no more now.

        It reads at most `room` samples, except from shards that are to be done whole; None means all.
        """
        ...

    def heard(self, workers: Sequence[Any]) -> Sequence[Any]:
        """Those of the workers that have something to `receive`, after a moment at most; dead ones are among them."""
        ...

    def dismiss(self, worker: Any) -> None:
        """Sees to it that a worker, which has ended or is dead, is gone."""
        ...

    def end(self, workers: Sequence[Any]) -> None:
        """Ends workers, and waits until they are gone."""
        ...


class Devices:
    """The devices of this machine, with a process for each."""

    def __init__(self, devices: Sequence[str], work: Callable[..., None]) -> None:
        """`work(channel, plan, device, room, whole, failed)` is what a worker does."""
        self._free, self._busy, self._work = list(devices), dict[Worker, str](), work

    def hire(self, run: Run, room: int | None) -> Worker | None:
        """See the protocol `Site`."""
        if not self._free:
            return None
        device, secret = self._free.pop(0), run.plan.config.anonymity is not None
        worker = Worker(self._work, run.plan, device, room, run.work.whole, run.work.failed, secret=secret)
        self._busy[worker] = device
        return worker

    def heard(self, workers: Sequence[Worker]) -> list[Worker]:
        """See the protocol `Site`."""
        return heard(workers)

    def dismiss(self, worker: Worker) -> None:
        """See the protocol `Site`."""
        worker.join()
        self._free.append(self._busy.pop(worker))

    def end(self, workers: Sequence[Worker]) -> None:
        """See the protocol `Site`."""
        end(workers)
