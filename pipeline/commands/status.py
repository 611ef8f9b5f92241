"""`doppel status`: how far a job is and who works at it, from what lies in its folder alone, from any machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pipeline.errors import UserError
from pipeline.media.versioned import Text, Versioned
from pipeline.section import Section
from pipeline.streams.asides import Aside, Asides
from pipeline.streams.claims import Claim, claims_in
from pipeline.streams.job_records import Counts, ShardRecord
from pipeline.streams.ledger import Ledger

RECENTLY = timedelta(minutes=10)
"""How far back, from the last shard that was done, images count for the rate of late."""
ETA_RULE = "shards left × images of a finished shard, at the rate of late"
"""How the time that is left is estimated."""


class Running(Section):
    """A shard that somebody claims."""

    shard: Text
    at: Text
    """Who claims it, as `HOST:PID`."""
    seconds: float
    """How long it had been held at the last sign of life, by the clock of its owner."""
    silent: float
    """Seconds since the last sign of life, as far as the calendars of the two machines agree."""
    old: bool
    """Whether that is longer than its lease: its owner is dead, or the calendars disagree."""


class Status(Versioned):
    """How a job stands."""

    job: Text
    """The folder of the job."""
    complete: bool
    """Whether all shards are done that there were when a run last began."""
    finished: int
    """Shards that are done."""
    total: int | None
    """Shards of the input when a run last began; None where none has told."""
    running: tuple[Running, ...]
    """Shards that runs with `--share` claim, by name. Other runs claim none."""
    aside: tuple[Aside, ...]
    """Shards that were set aside."""
    counts: Counts
    """What became of the samples of finished shards."""
    images_per_second: float | None
    """Over the last 10 minutes before the last shard was done, by all runs together; None for less than two shards."""
    images_per_second_of_one: float | None
    """The mean of all finished shards, each by the time that it took."""
    seconds_left: float | None
    """See `ETA_RULE`; None where a number for it is missing, and where nothing is left."""


def status(place: str, today: datetime | None = None) -> Status:
    """How the job in a folder, or at a URL, stands. Changes nothing.

    Raises `UserError` where there is no job, and for records that cannot be read.
    """
    ledger, today = Ledger(place), today or datetime.now(UTC)
    if ledger.job() is None:
        raise UserError(f"{ledger.shown} holds no doppel job; the folder of output.path is expected")
    records, given = ledger.records(), ledger.input()
    total = None if given is None else given.shards
    counts = sum((record.counts for record in records), Counts())
    left = None if total is None else max(0, total - len(records))
    spent = sum(record.seconds for record in records)
    rate = rate_of_late(records)
    claims = [claim for claim in claims_in(ledger.store) if not claim.name.startswith("%")]
    typical = counts.images / len(records) if records else None
    return Status(
        job=ledger.shown, complete=left == 0, finished=len(records), total=total,
        running=tuple(running(claim, today) for claim in claims),
        aside=tuple(Asides(ledger.store).all().values()),
        counts=counts, images_per_second=rate,
        images_per_second_of_one=round(counts.images / spent, 3) if spent else None,
        seconds_left=round(left * typical / rate, 1) if left and typical is not None and rate else None,
    )  # fmt: skip


def running(claim: Claim, today: datetime) -> Running:
    """What a claim says of its shard."""
    silent = max(0.0, (today - datetime.fromisoformat(claim.time)).total_seconds())
    return Running(
        shard=claim.name, at=claim.place, seconds=claim.held, silent=round(silent, 1), old=silent > claim.lease
    )


def rate_of_late(records: Sequence[ShardRecord]) -> float | None:
    """Images a second over the last shards, all runs together; None where their records do not tell.

    The first shard of the time counts for its end only: nobody knows how much of it lies before.
    """
    ended = sorted((datetime.fromisoformat(record.ended), record.counts.images) for record in records if record.ended)
    late = [(when, images) for when, images in ended if when > ended[-1][0] - RECENTLY]
    if len(late) < 2 or (span := (late[-1][0] - late[0][0]).total_seconds()) <= 0:
        return None
    return round(sum(images for _, images in late[1:]) / span, 3)


def lines(found: Status) -> list[str]:
    """What people are told of a job, in lines."""
    waiting = "" if found.total is None else f" of {found.total}"
    counts = found.counts
    said = [
        f"{found.job}: {found.finished}{waiting} shards done, {len(found.running)} claimed, {len(found.aside)} set "
        f"aside; {counts.images} images from {counts.read} samples, {counts.in_quarantine} in quarantine"
    ]
    for one in found.running:
        old = f"; no sign of life for {_spoken(one.silent)}, if its calendar is right" if one.old else ""
        said.append(f"  {one.shard} at {one.at} for {_spoken(one.seconds)}{old}")
    said += [f"  {aside.shard} set aside after {aside.tries} tries: {aside.reason}" for aside in found.aside]
    if found.images_per_second is not None:
        said.append(f"{found.images_per_second:g} images/s over the last 10 minutes of work")
    if found.images_per_second_of_one is not None:
        said.append(f"{found.images_per_second_of_one:g} images/s of one run, the mean of all shards")
    if found.seconds_left is not None:
        said.append(f"about {_spoken(found.seconds_left)} left ({ETA_RULE})")
    return said


def _spoken(seconds: float) -> str:
    """A duration, in two units at most."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
