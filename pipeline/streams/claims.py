"""Who does what at the moment: claims that expire, without a clock that two machines would have to share.

`claims/NAME.json` says that somebody works at NAME. It is put where there is none, again with every beat of its
owner, and deleted at the end. Whoever finds one of somebody else notes how it reads, and by the observer's own clock
since when it reads so; a claim that has not changed for its lease is taken over: it is read once more, deleted, and
put anew. No time that another machine has written is ever compared.

A store cannot delete a claim under the condition that it is still the one that was read. So two observers that take a
claim over in the same moment, or an owner that sleeps for longer than its lease and wakes up, may both work at NAME.
That costs time and never correctness: what a shard becomes is a pure function of input and recipe, files are put
whole, and the record comes last, so both put the same bytes. Whoever has lost a claim sees it at the next beat.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import Field

from pipeline.errors import UserError
from pipeline.media.versioned import Text, Versioned
from pipeline.streams.store import Store

CLAIMS = "claims"
"""The folder of claims."""
WHOLE_JOB, SCAN, RELEASE, RUN = "%job", "%scan", "%release", "%run~"
"""Names of claims that are no shard's, and what the claim of a run that shares a job begins with, before its token:
what `safe_component` gives is never so."""
BEATS = 4
"""How often an owner beats in the time of a lease."""
WATCHING = 0.2
"""Seconds between two looks at a claim that is waited for, at most; a short lease is watched more closely."""


def new_owner() -> str:
    """A name that nobody else has, `HOST:PID:TOKEN`, for one run."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"


class Claim(Versioned):
    """The record claims/NAME.json: who works at NAME."""

    name: Text
    owner: Text
    """See `new_owner`."""
    beat: int
    """Grows with every sign of life."""
    lease: float = Field(gt=0, allow_inf_nan=False)
    """Seconds without a beat after which others take the claim over, by their own clocks."""
    held: float
    """Seconds for which it had been held when it was written, by its owner's clock."""
    time: str
    """When it was written, by its owner's calendar: for people only."""

    @property
    def place(self) -> str:
        """The host and the process of its owner, as `HOST:PID`."""
        return self.owner.rpartition(":")[0]


@dataclass
class _Held:
    beat: int
    since: float


class Claims:
    """The claims of one owner, and what it has seen of those of others. Several threads may use it."""

    def __init__(
        self, store: Store, owner: str, *, lease: float, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`lease` is in seconds; `clock` is this process's own, which nobody sets."""
        self.store, self.owner, self.lease = store, owner, lease
        self._clock, self._over = clock, False
        self._held = dict[str, _Held]()
        self._seen = dict[str, tuple[bytes, float]]()
        self._guard = threading.RLock()  # a claim is not put again by a beat while it is released

    @property
    def held(self) -> frozenset[str]:
        """The names that it holds, as far as it knows."""
        with self._guard:
            return frozenset(self._held)

    def take(self, name: str) -> bool:
        """Claims `name` where nobody does, or where the claim of somebody else has expired.

        Returns whether it is ours now. Raises `UserError` where the store cannot put exclusively.
        """
        with self._guard:
            if name in self._held or self._over:
                return not self._over
            now, found = self._clock(), self.store.read(_file(name))
            if found is not None:
                if not self._expired(name, found, now):
                    return False
                self.store.delete(_file(name))
            self._seen.pop(name, None)
            held = _Held(beat=0, since=self._clock())
            if not self.store.put_if_absent(_file(name), self._content(name, held)):
                return False
            self._held[name] = held
            return True

    def insist(self, name: str, sleep: Callable[[float], None] = time.sleep) -> Claim | None:
        """Claims `name`, and waits where somebody else does until it is clear whether they live.

        Returns None once it is ours: at once, or a lease after the last beat of an owner that died. Returns the claim
        of an owner that lives as soon as it beats. Raises `UserError` for that of another version of doppel.
        """
        return self._outlive(name, lambda: self.take(name), sleep)

    def outlive(self, name: str, sleep: Callable[[float], None] = time.sleep) -> Claim | None:
        """Waits until nobody claims `name`, or until it is clear that somebody does who lives, as `insist` does.

        The claim of an owner that died is deleted, and none is put.
        """

        return self._outlive(name, lambda: self.store.read(_file(name)) is None or self.bury(name), sleep)

    def idle(self, name: str) -> bool:
        """Whether nobody has given a sign of life by the claim of `name` for a lease, as far as this observer has seen.

        There may have been no claim at all.
        """
        with self._guard:
            now, found = self._clock(), self.store.read(_file(name))
            return self._expired(name, found or b"", now)

    def bury(self, name: str) -> bool:
        """Deletes a claim that is `idle`, whoever put it, and returns whether it was."""
        with self._guard:
            idle = self.idle(name)
            if idle:
                self.store.delete(_file(name))
            return idle

    def alone(self, sleep: Callable[[float], None] = time.sleep) -> Claim | None:
        """Waits until it is clear whether somebody else lives who shares the job, and returns such a claim.

        Where nobody does, returns None, and all claims but its own are deleted.
        """
        for name in sorted(self.names()):
            if name.startswith(RUN) and (living := self.outlive(name, sleep)) is not None:
                return living
        for name in self.names() - self.held:
            self.store.delete(_file(name))
        return None

    def names(self) -> set[str]:
        """What anybody claims now."""
        return {entry.path[len(CLAIMS) + 1 : -len(".json")] for entry in self.store.list(CLAIMS)}

    def _outlive(self, name: str, won: Callable[[], bool], sleep: Callable[[float], None]) -> Claim | None:
        first: bytes | None = None
        while not won():
            now = self._seen[name][0] if name in self._seen else None
            if first is not None and now is not None and now != first:
                if (living := _parsed(name, now)) is None:
                    raise UserError(f"{self.store.shown}: {_file(name)} is kept by another version of doppel")
                return living
            first = first or now
            sleep(min(WATCHING, self.lease / (2 * BEATS)))
        return None

    def release(self, name: str) -> None:
        """Deletes the claim, if it is still ours."""
        with self._guard:
            if self._held.pop(name, None) is not None and self._is_ours(name):
                self.store.delete(_file(name))

    def beat(self) -> frozenset[str]:
        """Puts all claims that are held again, and returns the names of those that somebody else has taken over."""
        lost = set[str]()
        for name in self.held:
            with self._guard:
                held = self._held.get(name)
                if held is None:
                    continue
                if self._is_ours(name):
                    held.beat += 1
                    self.store.put(_file(name), self._content(name, held))
                else:
                    del self._held[name]
                    lost.add(name)
        return frozenset(lost)

    @contextmanager
    def beating(self) -> Iterator[Claims]:
        """Within it, a thread beats for all claims that are held; at the end they are released, and none is taken.

        A beat that fails is tried again the next time: where a store is away for longer than a lease, others take
        over, and whoever works sees the error for itself.
        """
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(self.lease / BEATS):
                with suppress(OSError, UserError):
                    self.beat()

        thread = threading.Thread(target=keep, name="claims", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            with self._guard:
                self._over = True
            for name in self.held:
                with suppress(OSError, UserError):  # it expires
                    self.release(name)

    def _expired(self, name: str, found: bytes, now: float) -> bool:
        """Whether a claim that reads as `found` has not changed for its lease, as far as this observer has seen.

        `now` is from before it was read, and what is noted from after it: a claim is never taken for older than it is,
        however long this process sleeps.
        """
        before, since = self._seen.get(name, (None, 0.0))
        if before != found:
            self._seen[name] = found, self._clock()
            return False
        claim = _parsed(name, found)
        return now - since >= (self.lease if claim is None else claim.lease)

    def _is_ours(self, name: str) -> bool:
        content = self.store.read(_file(name))
        claim = None if content is None else _parsed(name, content)
        return claim is not None and claim.owner == self.owner

    def _content(self, name: str, held: _Held) -> bytes:
        claim = Claim(
            name=name, owner=self.owner, beat=held.beat, lease=self.lease, held=round(self._clock() - held.since, 3),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        return claim.to_json().encode()


def claims_in(store: Store) -> list[Claim]:
    """The claims in a store, by name, without those that cannot be read."""
    found = list[Claim]()
    for entry in store.list(CLAIMS):
        content = store.read(entry.path)
        claim = None if content is None else _parsed(entry.path, content)
        if claim is not None:
            found.append(claim)
    return sorted(found, key=lambda claim: claim.name)


def _file(name: str) -> str:
    return f"{CLAIMS}/{name}.json"


def _parsed(name: str, content: bytes) -> Claim | None:
    """None for what is no claim of this version of doppel: it expires as one does."""
    try:
        return Claim.from_json(content, name)
    except UserError:
        return None
