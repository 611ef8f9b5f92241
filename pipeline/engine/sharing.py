"""Several runs of one job at once, without an engine above them: they divide its shards by claims that expire.

Nobody but whoever has claimed a shard begins with it. But a claim is lost where its owner sleeps for longer than its
lease, and then two may write one shard. So nothing of a shard is removed before it is written: its files are put in
the place of others, what else an earlier attempt has left goes just before the record is put, and of two records the
first stays. All that is put is the same, whoever puts it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pipeline.engine.events import Event, Noted, SetAside, ShardDone
from pipeline.engine.run import Engine, Run
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.posix import lock
from pipeline.streams.asides import ASIDE
from pipeline.streams.claims import BEATS, RUN, WHOLE_JOB, Claims, new_owner
from pipeline.streams.contract import InputShard
from pipeline.streams.places import PARTS, open_store
from pipeline.streams.reconciling import OnChange
from pipeline.streams.store import LOCK, Store

WORK = "run-"
"""What the folder with the work in progress of a run is called by, before its token."""
WATCHED = 16
"""Shards of others that a run watches at a time, when it has nothing to do itself."""
SOONEST_SECONDS, LATER, LOOK_SECONDS = 0.1, 1.5, 5.0
"""Seconds between the first two such looks, by how much more between the next, and at most; a short lease is watched
more closely."""
OTHERWISE = "several runs that share a job may not decide that, each for itself: run it once without --share"


def check_shareable(
    config: JobConfig, *, on_change: OnChange = "refuse", prune: bool = False, retry_quarantine: bool = False
) -> None:
    """Raises `UserError` for a job, or for options of a run, that several runs cannot share."""
    options = {"overwrite": "--overwrite", "redo": "--redo-changed", "keep": "--keep-finished"}
    if on_change in options:
        raise UserError(f"{options[on_change]}: {OTHERWISE}")
    for option, given in (("--prune", prune), ("--retry-quarantine", retry_quarantine)):
        if given:
            raise UserError(f"{option}: {OTHERWISE}")
    if config.limit is not None:
        raise UserError(
            f"limit is {config.limit}, and whoever comes first would decide which samples: leave out --share"
        )
    if config.output.format == "folder":
        raise UserError(
            "output.format is folder, where two runs that write one shard would take each other's files for those of "
            "another one: with --share, webdataset or parquet is allowed"
        )


class Sharing:
    """This run's part in a job that several runs share; see `shared`."""

    def __init__(self, store: Store, claims: Claims, until_the_end: ExitStack) -> None:
        self._store, self._claims, self._stack = store, claims, until_the_end
        self._over = False
        self._token = claims.owner.rpartition(":")[2]

    @property
    def work(self) -> str:
        """The name of this run's folder for work in progress."""
        return f"{WORK}{self._token}"

    @contextmanager
    def hold(self, store: Store) -> Iterator[bool]:
        """Holds a job's folder together with other runs that share it; see `pipeline.streams.ownership.Hold`.

        Raises `UserError` for a place that cannot be shared, and where a run is at work that does not share.
        """
        if store.local is not None:
            self._hold_disk(store.local)
        if (why := store.exclusive()) is not None:
            raise UserError(f"--share: several runs cannot share {store.shown}: {why}")
        self._claims.take(f"{RUN}{self._token}")
        if store.local is None and (other := self._claims.outlive(WHOLE_JOB)) is not None:
            raise UserError(f"output.path: {other.place} is at work in {store.shown}, without --share")
        try:
            yield False
        finally:
            self._over = True  # a thread that reads ahead may still ask
            for name in self._claims.held - {f"{RUN}{self._token}"}:
                self._claims.release(name)
            if store.local is not None:
                shutil.rmtree(store.local / PARTS / self.work, ignore_errors=True)

    def first(self, name: str) -> bool:
        """Whether this run is to do what only one may do, such as the release; it is then held until the end."""
        return self._claims.take(name)

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Within it, no other run that shares the job is in its own turn of the same name; waits for that."""
        while self._claims.insist(name) is not None:
            pass
        try:
            yield
        finally:
            self._claims.release(name)

    def divided(self, engine: Engine) -> Engine:
        """An engine that does, by `engine`, the shards that no other run does, until all are done or set aside."""

        def all_together(run: Run) -> Generator[Event, None, None]:
            left = {shard.name: shard for shard in turned(run.work.shards, place_of(os.environ, self._claims.owner))}
            while left:
                yield from self._wait(run, left)
                work = replace(run.work, shards=tuple(left.values()))
                with closing(engine(replace(run, work=work, claim=lambda name: self._begins(run, name)))) as events:
                    for event in events:
                        yield event
                        if isinstance(event, ShardDone | SetAside):
                            name = event.record.shard if isinstance(event, ShardDone) else event.aside.shard
                            left.pop(name, None)
                            self._claims.release(name)
                for name in self._claims.held & left.keys():
                    self._claims.release(name)
            self._sweep()

        return all_together

    def _begins(self, run: Run, name: str) -> bool:
        """Claims a shard, unless it is done, set aside, or somebody else's now."""
        if self._over or not is_left(run, name) or not self._claims.take(name):
            return False
        if not is_left(run, name) or is_aside(run, name):  # since a moment ago
            self._claims.release(name)
            return False
        if name in run.work.stale:
            run.ledger.retract(name)
        return True

    def _wait(self, run: Run, left: dict[str, InputShard]) -> Iterator[Event]:
        """Waits until a shard can be begun, or none is left. Shards that are done or set aside are taken out."""
        told, pause = False, SOONEST_SECONDS
        while left:
            self._look_at_others()
            claimed = self._claims.names()
            watched = list(islice((name for name in left if name in claimed), WATCHED))
            for name in [*(name for name in left if name not in claimed), *watched]:
                if self._begins(run, name):
                    return
                if not is_left(run, name) or is_aside(run, name):
                    del left[name]
            if left and not told:
                told = True
                yield Noted(f"{len(left)} shards are left, and other runs do them; this one waits, in case one dies")
            if left:
                time.sleep(pause)
                pause = min(LATER * pause, LOOK_SECONDS, self._claims.lease / BEATS)

    def _hold_disk(self, root: Path) -> None:
        place = root / PARTS / LOCK
        place.parent.mkdir(exist_ok=True)
        held = self._stack.enter_context(os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)))
        if not lock(held, shared=True):
            raise UserError(f"output.path: another doppel process is writing to {root}, without --share")
        (root / PARTS / self.work).mkdir()

    def _others(self) -> set[str]:
        """The tokens of runs that are, or were, at work here."""
        tokens = {name.removeprefix(RUN) for name in self._claims.names() if name.startswith(RUN)}
        if self._store.local is not None:
            parts = self._store.local / PARTS
            tokens |= {folder.name.removeprefix(WORK) for folder in parts.glob(f"{WORK}*")}
        return tokens - {self._token}

    def _look_at_others(self) -> None:
        for token in self._others():
            self._claims.idle(f"{RUN}{token}")

    def _sweep(self) -> None:
        """Removes what runs that died have left of their work in progress, and their claims.

        When all is done, one that was only asleep has nothing to write any more, and finds every shard recorded.
        """
        for token in self._others():
            if self._claims.bury(f"{RUN}{token}") and self._store.local is not None:
                shutil.rmtree(self._store.local / PARTS / f"{WORK}{token}", ignore_errors=True)


@contextmanager
def shared(place: str, *, lease: float) -> Iterator[Sharing]:
    """Within it, this process takes part in the job at `place`, and gives signs of life; `lease` is in seconds."""
    store = open_store(place)
    with ExitStack() as stack, Claims(store, new_owner(), lease=lease).beating() as claims:
        yield Sharing(store, claims, stack)


def is_left(run: Run, name: str) -> bool:
    """Whether a shard has no record but the one that no longer holds."""
    record = run.ledger.record(name)
    return record is None or record == run.work.stale.get(name)


def is_aside(run: Run, name: str) -> bool:
    """Whether a shard was set aside. Runs that share a job do not try it again, each for itself."""
    return bool(run.ledger.store.held([f"{ASIDE}/{name}.json"]))


def place_of(environment: Mapping[str, str], owner: str) -> float:
    """Where in the input a run begins, as a fraction: what a launcher says of it, else as good as by chance.

    Launchers say RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID with its MIN, STEP and COUNT.
    """

    def number(name: str, default: str = "") -> int:
        return int(environment.get(name, default))

    with suppress(ValueError):
        if 0 <= (rank := number("RANK")) < (size := number("WORLD_SIZE")):
            return rank / size
    with suppress(ValueError, ZeroDivisionError):
        task = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN", "0")
        index = task // number("SLURM_ARRAY_TASK_STEP", "1")
        if 0 <= index < (size := number("SLURM_ARRAY_TASK_COUNT")):
            return index / size
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:4]) / 2**32


def turned(shards: Sequence[InputShard], begin: float) -> list[InputShard]:
    """The shards in order, beginning at a fraction of them, and going on from the first after the last."""
    first = int(begin * len(shards))
    return [*shards[first:], *shards[:first]]
