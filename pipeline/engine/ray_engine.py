"""The engine that works on a Ray cluster: a crew of actors that load the models once, and more where there is room."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from pipeline.engine.events import Event, Noted
from pipeline.engine.ray_actor import BEACON, ShardWorker
from pipeline.engine.run import Run
from pipeline.engine.supervising import supervised
from pipeline.engine.worker import POLL_SECONDS, Asks, Broke, Died, unless_error
from pipeline.errors import UserError
from pipeline.job.plan import Plan

PATIENCE = 8.0
"""Seconds in which workers may end by themselves before they are killed."""


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Does the work of a run on the cluster that this process is connected to; see `Engine` and `connected`."""

    least: int
    """Workers that there are while there are shards for them."""
    most: int
    """Workers that there are where the cluster has room."""
    gpus: float
    """GPUs of each worker, at most 1; with 0 it works on a CPU."""

    @property
    def device(self) -> str:
        """The device of each worker, by torch's name; Ray shows it no other."""
        return "cuda:0" if self.gpus else "cpu"

    def __call__(self, run: Run) -> Generator[Event, None, None]:
        """See the protocol `Engine`."""
        import ray

        if self.gpus and ray.cluster_resources().get("GPU", 0) < self.gpus:
            yield Noted("the cluster has no GPU for a worker now; the job begins when a node with one joins")
        least, most = (1, 1) if run.plan.config.limit else (self.least, self.most)  # one alone counts samples
        with _beacon(run) as beacon:
            yield from supervised(run, Cluster(self, least, most, beacon))

    def largest_batch(self, plan: Plan) -> int:
        """The batch size that fits on the device of a worker. Raises `UserError` where not even one image does."""
        import ray

        actor = self.actor()
        try:
            found: int | UserError = ray.get(actor.largest_batch.remote(plan, self.device))
        finally:
            ray.kill(actor)
        if isinstance(found, UserError):
            raise found
        return found

    def actor(self) -> Any:
        """A new actor, which begins when a node has room for it. Ray does not start it anew: our crew does."""
        import ray

        remote = ray.remote(
            num_cpus=1, num_gpus=self.gpus, max_restarts=0, max_concurrency=2, scheduling_strategy="SPREAD"
        )
        return remote(ShardWorker).remote()


@contextmanager
def _beacon(run: Run) -> Iterator[bytes]:
    """Something in the job's folder that only those know who see the same folder."""
    store, beacon = run.ledger.store, uuid4().hex.encode()
    store.put(BEACON, beacon)
    try:
        yield beacon
    finally:
        store.delete(BEACON)


@dataclass(eq=False)
class RayWorker:
    """An actor, as the crew sees it; see `Hand`."""

    engine: RayEngine
    given: tuple[Any, ...]
    """What the actor's `work` is given."""
    actor: Any = None
    stream: Any = None
    """What it yields; None before it is started."""
    begun: bool = False
    """Whether it has said anything."""
    killed: str | None = None
    """Why it was killed, as a part of a sentence."""
    asked_to_end: bool = False
    """A signal that ends an actor elsewhere does not reach this process."""

    def start(self) -> None:
        """See the protocol `Hand`. It begins when a node has room for it."""
        self.actor = self.engine.actor()
        self.stream = self.actor.work.options(num_returns="streaming").remote(*self.given)

    def receive(self) -> Event | Asks | None:
        """See the protocol `Hand`."""
        import ray

        self.begun = True
        try:
            message = ray.get(next(self.stream))
        except StopIteration:
            return None
        except ray.exceptions.RayTaskError as error:
            raise Died(f"{type(error.cause).__name__} on its node") from None
        except ray.exceptions.RayError as error:
            raise Died(self.killed or _fate(error)) from None
        if isinstance(message, Broke):
            raise Died(message.why)
        return unless_error(message)

    def answer(self, shard: str | None) -> None:
        """See the protocol `Hand`."""
        self.actor.answer.remote(shard)

    def kill(self, why: str) -> None:
        """See the protocol `Hand`."""
        import ray

        self.killed = why
        if self.actor is not None:
            ray.kill(self.actor)

    def wait(self, until: float) -> None:
        """Waits until its work has ended, to `until` at most, by `time.monotonic`."""
        import ray

        while ray.wait([self.stream], timeout=max(0.0, until - time.monotonic()))[0]:
            try:
                ray.get(next(self.stream))
            except (StopIteration, ray.exceptions.RayError):
                return


def _fate(error: Exception) -> str:
    """What Ray knows of the end of an actor, as a part of a sentence."""
    said = str(error)
    if missing := re.search(r"No module named '(\w+)", said):
        return f"its node has no package {missing[1]}; every node needs doppelset[ray]"
    kinds = {"is unavailable": "its node does not answer", "node has died": "its node died"}
    return next((fate for words, fate in kinds.items() if words in said), "its process died")


class Cluster:
    """The connected cluster, as the place where a crew's workers come from; see `Site`."""

    def __init__(self, engine: RayEngine, least: int, most: int, beacon: bytes) -> None:
        self._engine, self._least, self._most, self._beacon = engine, least, most, beacon
        self._workers = list[RayWorker]()

    def hire(self, run: Run, room: int | None) -> RayWorker | None:
        """See the protocol `Site`.

        Beyond the least, no more wait for a node than are at work: what waits makes a cluster grow that can.
        """
        waiting = sum(not worker.begun for worker in self._workers)
        if not wanted(len(self._workers), waiting, self._least, self._most):
            return None
        plan, work = run.plan, run.work
        secret = plan.config.anonymity is not None
        given = (secret, self._beacon, plan, self._engine.device, room, work.whole, work.failed)
        worker = RayWorker(self._engine, given)
        self._workers.append(worker)
        return worker

    def heard(self, workers: Sequence[RayWorker]) -> list[RayWorker]:
        """See the protocol `Site`."""
        import ray

        streams = {worker.stream: worker for worker in workers}
        if not streams:
            return []
        if not ray.wait(list(streams), num_returns=1, timeout=POLL_SECONDS)[0]:
            return []
        ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0)
        return [streams[stream] for stream in ready]

    def dismiss(self, worker: RayWorker) -> None:
        """See the protocol `Site`."""
        worker.kill("it was dismissed")
        self._workers.remove(worker)

    def end(self, workers: Sequence[RayWorker]) -> None:
        """See the protocol `Site`."""
        until = time.monotonic() + PATIENCE
        begun = [worker for worker in workers if worker.begun]
        for worker in begun:
            worker.actor.drop.remote()
        for worker in begun:
            worker.wait(until)
        for worker in workers:
            self.dismiss(worker)


def wanted(there: int, waiting: int, least: int, most: int) -> bool:
    """Whether a further worker is to be asked for, where `there` are so many, of whom some still wait for a node."""
    at_work = there - waiting
    return there < least or (there < most and waiting < max(1, at_work))
