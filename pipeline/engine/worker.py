"""A process that works for this one, heard through a pipe of its own, so that its death is seen and breaks no other."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from pipeline.engine.events import Event
from pipeline.errors import UserError
from pipeline.orphans import follow_parent, undisturbed

POLL_SECONDS = 0.5
"""Seconds between two looks at workers that say nothing."""
PATIENCE = 5.0
"""Seconds that a worker gets to end before it is killed."""
LONGEST = 300
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class Asks:
    """The worker wants its next shard."""


@dataclass(frozen=True)
class Broke:
    """The worker met an error of the code, and ends."""

    why: str


Message = Event | Asks | Broke | UserError | OSError | None
"""What a worker sends; None as the last thing, when it ends in order."""


class Died(Exception):
    """A worker is dead; the text says how, as a part of a sentence."""


class Channel(Protocol):
    """What a worker hears and tells by; several of its threads may send, and one asks."""

    def send(self, message: Message) -> None:
        """Sends a message; it may wait while the other side is busy."""
        ...

    def next_shard(self) -> str | None:
        """Asks for a shard and waits for its name; None where there are no more, or after `close`."""
        ...

    def close(self) -> None:
        """Lets go of the thread that waits for a shard."""
        ...


class PipeChannel:
    """The worker's end of a pipe; see `Channel`."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._sending, self._closing = pipe, threading.Lock(), threading.Event()

    def send(self, message: Message) -> None:
        """See `Channel`."""
        with self._sending:
            self._pipe.send(message)

    def next_shard(self) -> str | None:
        """See `Channel`."""
        self.send(Asks())
        while not self._pipe.poll(POLL_SECONDS / 5):
            if self._closing.is_set():
                return None
        name: str | None = self._pipe.recv()
        return name

    def close(self) -> None:
        """See `Channel`."""
        self._closing.set()


class Worker:
    """A worker as the process sees it that has started it."""

    def __init__(self, work: Callable[..., None], *given: Any, secret: bool) -> None:
        """It will do `work(channel, *given)` in a process of its own.

        With `secret`, errors of the code tell their kind alone: their texts may name people.
        """
        context = multiprocessing.get_context("spawn")  # a daemon may have no processes of its own, as the gate does
        self.pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(self._theirs, secret, work, *given))
        self._broke: str | None = None

    def start(self) -> None:
        """Starts the process. Whoever calls it must `end` the worker, also where a signal comes meanwhile."""
        with undisturbed():
            self._process.start()
            self._theirs.close()

    def receive(self) -> Event | Asks | None:
        """The next message; None when the worker has ended in order.

        Raises the `UserError` or `OSError` that it sends, and `Died` where it is dead.
        """
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            raise Died(self._fate()) from None
        if isinstance(message, Broke):
            self._broke = message.why
            raise Died(self._fate())
        if message is None:
            self._process.join()
        return unless_error(message)

    def answer(self, shard: str | None) -> None:
        """Gives a worker that `Asks` a shard, or None for no more."""
        with suppress(OSError):  # it may be dead, as the next look will say
            self.pipe.send(shard)

    def kill(self, why: str) -> None:
        """Kills it; `why`, as a part of a sentence, is what it died of then."""
        self._broke = why
        self._process.kill()

    @property
    def silent_and_dead(self) -> bool:
        """Whether it is dead although its pipe is not closed, since a process of its own has it, too."""
        return self._process.exitcode is not None and not self.pipe.poll()

    @property
    def asked_to_end(self) -> bool:
        """Whether it was SIGTERM that ended it."""
        return self._process.exitcode == -signal.SIGTERM

    def _fate(self) -> str:
        """What the worker died of."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        return self._broke or (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    @property
    def started(self) -> bool:
        """Whether there is a process."""
        return self._process.pid is not None

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def join(self) -> None:
        """Waits until it has ended, and kills it where that takes long."""
        self._process.join(PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self.pipe.close()


def heard(workers: Iterable[Worker]) -> list[Worker]:
    """The workers that have something to `receive`, after a moment at most; those that died are among them."""
    pipes = {worker.pipe: worker for worker in workers}
    ready = {pipes[pipe] for pipe in wait(list(pipes), timeout=POLL_SECONDS) if isinstance(pipe, Connection)}
    return [worker for worker in pipes.values() if worker in ready or worker.silent_and_dead]


def end(workers: Iterable[Worker]) -> None:
    """Ends the workers that were started, and waits for them."""
    left = [worker for worker in workers if worker.started]
    for worker in left:
        worker.terminate()
    for worker in left:
        worker.join()


def events_of(worker: Worker, what: str, timeout: float | None) -> Iterator[Event]:
    """Yields what a lone worker sends, and ends with it.

    Raises what it raises, and a `UserError` that begins with `what` where it dies, or sends nothing for `timeout`
    seconds.
    """
    since = time.monotonic()
    try:
        worker.start()
        while True:
            if heard([worker]):
                message = worker.receive()
                since = time.monotonic()
                if message is None:
                    return
                if not isinstance(message, Asks):
                    yield message
            elif timeout is not None and time.monotonic() - since > timeout:
                worker.kill(hung(timeout))
    except Died as death:
        raise UserError(f"{what}: its process died ({death}); finished shards are kept, run again") from None
    finally:
        end([worker])


def hung(timeout: float) -> str:
    """What a worker dies of that makes no progress."""
    return f"nothing came of it in {timeout:g} s (run.timeout)"


def unless_error(message: Event | Asks | UserError | OSError | None) -> Event | Asks | None:
    """The message, or None at the end. Raises the `UserError` or `OSError` that it is."""
    if isinstance(message, UserError | OSError):
        raise message
    return message


def _run(pipe: Connection, secret: bool, work: Callable[..., None], *given: Any) -> None:
    follow_parent()
    if not in_order(PipeChannel(pipe), secret, work, *given):
        sys.exit(1)


def in_order(channel: Channel, secret: bool, work: Callable[..., None], *given: Any) -> bool:
    """Calls `work(channel, *given)` and sends how it ended; says whether no error of the code ended it."""
    try:
        work(channel, *given)
        channel.send(None)
    except (UserError, OSError) as error:
        with suppress(OSError):  # nobody may listen any more
            channel.send(error)
    except Exception as error:
        traceback.print_tb(error.__traceback__)
        kind, text = type(error).__name__, " ".join(str(error).split())
        channel.send(Broke(kind if secret or not text else f"{kind}: {text}"[:LONGEST]))
        return False
    return True
