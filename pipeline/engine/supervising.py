"""Shards are done by processes that may die or hang: they are replaced, and a shard that ends each is set aside."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from pipeline.engine.dispensing import Dispenser
from pipeline.engine.events import Event, Noted, Progress, Scanned, SetAside, ShardDone, TakenBack
from pipeline.engine.process import process
from pipeline.engine.reading import open_input
from pipeline.engine.run import Run, confidential
from pipeline.engine.scanning import scan_shards, unscanned
from pipeline.engine.sites import Hand, Site
from pipeline.engine.worker import Asks, Channel, Died, hung
from pipeline.errors import UserError
from pipeline.job.plan import Plan
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.ledger import Ledger

SIGNAL_SECONDS = 1.0
"""Seconds in which a signal to all of us, which has ended a worker, reaches this process as well."""
NOTHING = Progress(read=0, images=0, rejected=0)
"""No progress yet."""
HOPELESS = 3
"""Shards that may be set aside before any is done."""


@dataclass(eq=False)
class Member:
    """A worker of the crew, and what is known of it."""

    worker: Hand
    begun: bool = False
    asks: bool = False
    since: float = field(default_factory=time.monotonic)
    """When it was last heard of, or given work."""
    told: Progress = NOTHING
    """What it has told of shards that it has not finished."""


def supervised(run: Run, site: Site) -> Generator[Event, None, None]:
    """Does the work by the workers of a site; see `Engine`.

    A process that dies, or makes no progress for `run.timeout` seconds, is replaced, and its shards are done again. A
    shard that has ended `run.tries` of them is set aside. Raises `UserError` where processes die without a shard, or
    nothing but deaths comes of the job.
    """
    crew = Crew(run, site)
    try:
        while not crew.over:
            crew.fill()
            yield from crew.hear()
            crew.feed()
    finally:
        site.end([member.worker for member in crew.members])


class Crew:
    """The workers of a run."""

    def __init__(self, run: Run, site: Site) -> None:
        self._run, self._site, self._settings = run, site, run.plan.config.run
        self._room = run.work.room
        names = (shard.name for shard in run.work.shards)
        self._queue = Dispenser(names, self._settings.tries, run.claim, in_order=self._room is not None)
        self._done = self._idle_deaths = 0
        self.members = list[Member]()

    @property
    def over(self) -> bool:
        """Whether all is done or set aside, and all workers that have begun have gone."""
        return self._queue.over and not any(member.begun for member in self.members)

    def fill(self) -> None:
        """Hires workers while there are shards for them, as many as the site has room for."""
        while self._queue.left and len(self.members) < self._queue.unfinished:
            if (worker := self._site.hire(self._run, self._room)) is None:
                break
            self.members.append(Member(worker=worker))
            worker.start()

    def hear(self) -> Iterator[Event]:
        """Yields what the workers tell, and what becomes of the shards of those that died."""
        speaking = set(self._site.heard([member.worker for member in self.members]))
        for member in list(self.members):
            if member.worker in speaking:
                member.since = time.monotonic()
                try:
                    message = member.worker.receive()
                except Died as death:
                    yield from self._lose(member, str(death))
                    continue
                if isinstance(message, Asks):
                    member.begun = member.asks = True
                elif message is None:
                    self._dismiss(member)
                else:
                    self._note(member, message)
                    yield message
            elif self._hangs(member):
                member.worker.kill(hung(self._settings.timeout or 0))

    def feed(self) -> None:
        """Gives shards to the workers that ask, as long as there are any."""
        for member in self.members:
            if not member.asks:
                continue
            idle, name = not self._queue.held(member), self._next(member)
            if name is not None or self._queue.over:
                member.asks, member.since = False, time.monotonic() if idle else member.since
                member.worker.answer(name)

    def _next(self, member: Member) -> str | None:
        """The next shard for a worker; with a limit only after the last one, which tells what is left of the limit."""
        if self._room is not None and self._queue.held(member):
            return None
        while (name := self._queue.give(member)) is not None and self._room == 0 and name not in self._run.work.whole:
            self._queue.done(member, name)
        return name

    def _hangs(self, member: Member) -> bool:
        timeout = self._settings.timeout
        late = timeout is not None and time.monotonic() - member.since > timeout
        return late and bool(self._queue.held(member))

    def _note(self, member: Member, event: Event) -> None:
        if isinstance(event, Progress):
            member.told += event
        elif isinstance(event, ShardDone):
            self._finish(member, event)

    def _finish(self, member: Member, event: ShardDone) -> None:
        name = event.record.shard
        self._queue.done(member, name)
        self._done, member.told = self._done + 1, NOTHING
        self._idle_deaths = 0
        if self._room is not None and name not in self._run.work.whole:
            self._room = max(0, self._room - event.record.counts.read)

    def _dismiss(self, member: Member) -> None:
        self.members.remove(member)
        self._site.dismiss(member.worker)

    def _lose(self, member: Member, why: str) -> Iterator[Event]:
        """Buries a worker. What it held is done again, except what it finished with its last breath."""
        if member.worker.asked_to_end:
            time.sleep(SIGNAL_SECONDS)  # if all of us are to end, this is where it is heard
        self._dismiss(member)
        held, ledger = self._queue.held(member), self._run.ledger
        for name in held:
            if name not in self._run.work.failed and (record := ledger.record(name)) is not None:
                event = ShardDone(record)
                self._finish(member, event)
                yield event
        if not self._queue.held(member):
            self._idle_deaths += not held and not self._queue.over
            if self._idle_deaths > self._settings.tries:
                raise UserError(f"{self._idle_deaths} worker processes died before they had a shard, the last: {why}")
            return
        yield TakenBack(member.told)
        held = self._queue.held(member)
        again = self._queue.lost(member, why)
        for name in held:
            if name not in self._run.work.failed:  # those keep what they have, until they are replaced
                ledger.forget(name)
        if again:
            yield Noted(f"a worker died ({why}): done again {'is' if len(again) == 1 else 'are'} {', '.join(again)}")
            return
        aside = self._queue.set_aside[-1]
        yield SetAside(aside)
        if len(self._queue.set_aside) >= HOPELESS and not self._done and not self._queue.over:
            raise UserError(f"{HOPELESS} shards ended every worker, and none is done; the last, {aside.shard}: {why}")


def work_through(
    channel: Channel, plan: Plan, device: str, room: int | None, whole: frozenset[str], failed: frozenset[str],
) -> None:  # fmt: skip
    """What a worker does: the shards that it is given, one after the other, each read while the last is written.

    Before, where there is a gate, it scans originals that nobody has scanned.
    """

    def assigned(stream: InputStream) -> Iterator[InputShard]:
        shards = {shard.name: shard for shard in stream.shards}
        while (name := channel.next_shard()) is not None:
            yield shards[name]

    stream, classes = open_input(plan)
    ledger = Ledger(plan.config.output.path, plan.work)
    with confidential(plan):
        if plan.config.anonymity is not None and (left := unscanned(plan)):
            scan_shards(plan, device, left, lambda images: channel.send(Scanned(images)))
        events = process(
            assigned(stream), plan, stream, classes, ledger, device,
            remaining=room, unlimited=whole, failed=failed, stop=channel.close,
        )  # fmt: skip
        with closing(events):
            for event in events:
                channel.send(event)
