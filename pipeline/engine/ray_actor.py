"""A worker on another machine: what `PipeChannel` does through a pipe, it does through calls of a Ray actor."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from pipeline.engine.devices import resolve_devices
from pipeline.engine.supervising import work_through
from pipeline.engine.transforming import try_sizes
from pipeline.engine.worker import Asks, Channel, Message, in_order
from pipeline.errors import UserError
from pipeline.job.hashes import hashes
from pipeline.job.plan import Plan, outlines
from pipeline.streams.places import open_store

BEACON = "beacon.json"
"""The file in a job's folder by which workers elsewhere know that it is the same folder."""
LOOK_SECONDS = 20.0
"""Seconds in which a new file must be seen by the other machines that share a folder."""
SAME = {
    "code": "doppel's code",
    "model": "the model's files",
    "second_model": "the second model's files",
    "judge": "the judge's files",
    "files": "the files of mask and guide",
}
"""What must be the same on every machine, by the names of hashes."""


class Dropped(BaseException):
    """The worker shall end, whatever it is doing."""


class RayChannel:
    """The worker's side of an actor's calls; see `Channel`."""

    def __init__(self) -> None:
        self.outbox: queue.SimpleQueue[list[Message]] = queue.SimpleQueue()
        """What was sent, each message in a list of its own; an empty list is the end."""
        self._inbox: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = threading.Event()

    def send(self, message: Message) -> None:
        """See `Channel`. Raises `Dropped` after `drop`."""
        if self._dropped.is_set():
            raise Dropped
        self.outbox.put([message])

    def next_shard(self) -> str | None:
        """See `Channel`."""
        self.send(Asks())
        return self._inbox.get()

    def close(self) -> None:
        """See `Channel`."""
        self._inbox.put(None)

    def answer(self, shard: str | None) -> None:
        """Gives the worker the shard that it has asked for."""
        self._inbox.put(shard)

    def drop(self) -> None:
        """Makes the worker end as soon as it has something to tell, or asks for a shard."""
        self._dropped.set()
        self.close()


class ShardWorker:
    """The actor: one call of `work` for its whole life, in which models are loaded once; others are short."""

    def __init__(self) -> None:
        self._channel = RayChannel()

    def work(self, secret: bool, *given: Any) -> Iterator[Message]:
        """Does the shards that `answer` gives, and yields what there is to tell; see `work_there` for `given`."""
        threading.Thread(target=self._work, args=(secret, *given), daemon=True).start()
        while message := self._channel.outbox.get():
            yield message[0]

    def _work(self, secret: bool, *given: Any) -> None:
        try:
            in_order(self._channel, secret, work_there, *given)
        except Dropped:
            pass
        finally:
            self._channel.outbox.put([])

    def answer(self, shard: str | None) -> None:
        """Gives the worker the shard that it has asked for, or None for no more."""
        self._channel.answer(shard)

    def drop(self) -> None:
        """Makes `work` end soon; what is not finished is dropped."""
        self._channel.drop()

    def largest_batch(self, plan: Plan, device: str) -> int | UserError:
        """The batch size that fits here, or why there is none."""
        try:
            return try_sizes(plan, the_one(device))
        except UserError as error:
            return error


def work_there(
    channel: Channel, beacon: bytes, plan: Plan, device: str, room: int | None, whole: frozenset[str],
    failed: frozenset[str],
) -> None:  # fmt: skip
    """What a worker elsewhere does: it looks whether all is as on the driver's machine, and then works.

    Raises `UserError` where something is not.
    """
    check_folder(plan.config.output.path, beacon)
    check_same(plan)
    work_through(channel, plan, the_one(device), room, whole, failed)


def the_one(device: str) -> str:
    """The device, if it is here. Raises `UserError` where it is not."""
    (found,) = resolve_devices((device,))
    return found


def check_folder(place: str, beacon: bytes) -> None:
    """Raises `UserError` where the job's folder is not the one in which the driver has lit the beacon."""
    store, until = open_store(place), time.monotonic() + LOOK_SECONDS
    while store.read(BEACON) != beacon:
        if time.monotonic() > until:
            raise UserError(
                f"output.path: on node {socket.gethostname()} {store.shown} is not the folder of this job; name a "
                "folder that all nodes share, or a bucket"
            )
        time.sleep(LOOK_SECONDS / 20)


def check_same(plan: Plan) -> None:
    """Raises `UserError` where this machine would write other bytes than the driver's plan says."""
    here = hashes(plan.config, *outlines(plan.config), plan.salt)
    if others := [what for name, what in SAME.items() if here[name] != plan.hashes[name]]:
        raise UserError(
            f"{' and '.join(others)} differ on node {socket.gethostname()} from those on the driver's machine; every "
            "node needs the same installation and the same files"
        )
