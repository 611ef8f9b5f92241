"""What an engine is given, and what it is: it does the shards that are left, wherever it has processes for them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from pipeline.engine.events import Event
from pipeline.job.classes import Classes
from pipeline.job.plan import Plan
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.ledger import Ledger
from pipeline.streams.private import private_umask
from pipeline.streams.reconciling import Work


def nobody_else(shard: str) -> bool:
    """Says that a shard is this run's to do, where no other run is at work."""
    return True


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job that has been reconciled, with the work that is left."""

    plan: Plan
    stream: InputStream
    classes: Classes
    ledger: Ledger
    work: Work
    died: bool = False
    """Whether the last run was killed, or a shard is set aside: a shard may end the process that reads it."""
    claim: Callable[[str], bool] = nobody_else
    """An engine asks it, in the process that runs it, before it gives a shard away or begins with it; where it says no,
    the shard is passed over."""

    def claimed(self) -> Iterator[InputShard]:
        """Yields the shards that are left, each claimed when it is asked for."""
        return (shard for shard in self.work.shards if self.claim(shard.name))


class Engine(Protocol):
    """Does the work of a run; a shard is committed before its `ShardDone` is yielded.

    Closing the generator leaves finished shards finished, and nothing half-done behind.
    """

    def __call__(self, run: Run) -> Generator[Event, None, None]:
        """Yields what happens. Raises `UserError` and `OSError` for what the user can mend."""
        ...


def confidential(plan: Plan) -> AbstractContextManager[None]:
    """Within it, whatever is written is its owner's alone, where the job's images show people."""
    return nullcontext() if plan.config.anonymity is None else private_umask()
