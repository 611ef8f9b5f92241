"""How the records of a job stand to today's input and to the outputs on disk, and what is done about it.

A finished shard is known by its name and the content of its input. New shards are done; changed ones are asked about;
what is gone from the input is named, and removed only when the user says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import UserError
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.files import content_hash
from pipeline.streams.job_records import ShardRecord
from pipeline.streams.ledger import Ledger

OnChange = Literal["refuse", "redo", "keep", "overwrite"]
"""What to do with finished shards that were made from something else: refuse to go on, do those whose input changed
again, keep them, or overwrite the whole job."""
AGAIN = "they were cut by a limit or damaged, or an output is not as it was written"
"""Why finished shards are done again that no one asked for."""
Retry = Literal["samples", "shards"]
"""What is done again where samples are in quarantine: these alone, or the shards that they are of."""
WHOLE = "a limit cut them, some labels are unread, samples hang on each other, or their format is not read back"
"""Why shards are done whole for the sake of some of their samples."""
SHOWN = 5
"""Names that a message lists at most."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a job stands before it goes on."""

    shards: Sequence[InputShard]
    """All shards of the input."""
    records: Mapping[str, ShardRecord]
    """The records of finished shards, by name."""
    missing: tuple[InputShard, ...]
    """Shards without a record, in the order of the input."""
    again: tuple[InputShard, ...]
    """Shards with a record that no longer holds: see `AGAIN`."""
    changed: tuple[InputShard, ...]
    """Finished shards whose input is no longer what they were made from."""
    failed: tuple[InputShard, ...]
    """Finished shards, as they were, with samples in quarantine."""
    gone: tuple[ShardRecord, ...]
    """Finished shards that are no longer in the input."""
    left: frozenset[str]
    """The names of unfinished shards that have left files."""
    stray: tuple[str, ...]
    """Files in the job's folders that no finished shard has written, and no shard of the input has left there."""


def reconcile(
    ledger: Ledger, stream: InputStream, *, limit: int | None, verify: bool, retry_damaged: bool = True
) -> Standing:
    """Compares the records of a job with its input and its outputs, and changes nothing.

    Outputs are compared by size; with `verify`, by their sha256. A shard that a limit has cut is finished only as long
    as the `limit` is reached, and with `retry_damaged`, one that was damaged is not. Raises `UserError` for a record
    that cannot be read, and for a folder of the job that isn't one.
    """
    records = {record.shard: record for record in ledger.records()}
    names, classes, there = {shard.name for shard in stream.shards}, stream.classes(), ledger.files()
    reached = limit is not None and sum(r.counts.read for r in records.values() if r.shard in names) >= limit
    missing, again, changed, failed = (list[InputShard]() for _ in range(4))
    for shard in stream.shards:
        record = records.get(shard.name)
        if record is None:
            if not reached:
                missing.append(shard)
        elif (
            (record.cut and not reached)
            or (record.counts.damaged and retry_damaged)
            or not _as_written(ledger, record, there, verify=verify)
        ):
            again.append(shard)
        elif record.classes != classes or (
            record.fingerprint != shard.fingerprint() and record.input_hash != shard.content_hash()
        ):
            changed.append(shard)
        elif record.counts.in_quarantine:
            failed.append(shard)
    known = {file for record in records.values() for file in record.files}
    left = {name: found for name in names - records.keys() if (found := ledger.leftovers(name, there))}
    known = known.union(*left.values())
    return Standing(
        shards=stream.shards,
        records=records,
        missing=tuple(missing),
        again=tuple(again),
        changed=tuple(changed),
        failed=tuple(failed),
        gone=tuple(record for name, record in records.items() if name not in names),
        left=frozenset(left),
        stray=tuple(file for file in sorted(there) if file not in known),
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job has to do."""

    shards: tuple[InputShard, ...]
    """Unfinished shards, in the order of the input."""
    whole: frozenset[str]
    """The names of those that were finished before. They are read whole again, whatever the limit."""
    failed: frozenset[str]
    """The names of those of which only the samples in quarantine are done again."""
    room: int | None
    """How many samples of the others may be read; None means all."""
    notes: tuple[str, ...]
    """What people should know, as sentences."""
    stale: Mapping[str, ShardRecord] = field(default_factory=dict)
    """The records that no longer hold, by name, which whoever begins with their shards removes first."""


def settle(
    ledger: Ledger, standing: Standing, on_change: OnChange, *, limit: int | None, prune: bool,
    retry: Retry | None = None,
) -> Work:  # fmt: skip
    """Makes room for what is to be done, and returns it.

    What unfinished shards have left is removed, and with `prune` all that is gone from the input; but nothing is where
    the ledger is shared, and others may be at work. `retry` says what is done again where samples are in quarantine.
    Raises `UserError` where the user has to decide.
    """
    if on_change == "refuse" and standing.changed:
        raise UserError(
            f"{ledger.shown}: the input of {_names([shard.name for shard in standing.changed])} changed since: "
            "--redo-changed does them again, --keep-finished leaves them as they are, --overwrite starts anew"
        )
    if (standing.gone or standing.stray) and on_change in ("refuse", "redo") and not prune:
        lost = [f"the input of {_names([r.shard for r in standing.gone])} is gone"] if standing.gone else []
        lost += [f"no finished shard has written {_names(standing.stray, 'file')}"] if standing.stray else []
        raise UserError(
            f"{ledger.shown}: {', and '.join(lost)}: --prune removes what they left in the job's folder, "
            "--keep-finished leaves it there"
        )
    changed = standing.changed if on_change == "redo" else ()
    failed = standing.failed if retry else ()
    mended = [shard for shard in failed if retry == "samples" and _clear(standing.records[shard.name])]
    again = (*standing.again, *(shard for shard in failed if shard not in mended))
    whole = [shard.name for shard in (*again, *changed, *mended) if not standing.records[shard.name].cut]
    open_cuts = {shard.name for shard in again} - set(whole)
    gone = {record.shard for record in standing.gone}
    taken = sum(r.counts.read for name, r in standing.records.items() if name not in open_cuts | gone)
    todo, notes = [*standing.missing, *again, *changed], list[str]()
    for shard in todo if not ledger.shared else ():
        if shard.name in standing.records or shard.name in standing.left:
            ledger.forget(shard.name)
    if standing.again:
        names = _names([shard.name for shard in standing.again])
        notes.append(f"{names} done again: {AGAIN}")
    if failed:
        count = sum(standing.records[shard.name].counts.in_quarantine for shard in failed)
        notes.append(f"{count} samples in quarantine are tried again, in {_names([s.name for s in failed])}")
        if len(mended) < len(failed):
            notes.append(f"{len(failed) - len(mended)} of them are done whole: {WHOLE}")
    if prune:
        for record in standing.gone:
            ledger.forget(record.shard)
        for file in standing.stray:
            ledger.store.delete(file)
        if standing.gone or standing.stray:
            notes.append(f"removed {len(standing.gone)} shards and {len(standing.stray)} files that have no input")
    order = {shard.name: number for number, shard in enumerate(standing.shards)}
    return Work(
        shards=tuple(sorted([*todo, *mended], key=lambda shard: order[shard.name])),
        whole=frozenset(whole),
        failed=frozenset(shard.name for shard in mended),
        room=None if limit is None else max(0, limit - taken),
        notes=tuple(notes),
        stale={shard.name: standing.records[shard.name] for shard in again} if ledger.shared else {},
    )


def _clear(record: ShardRecord) -> bool:
    """Whether what a shard has counted of samples with outputs is known apart from what failed."""
    return not record.cut and not record.counts.unread


def _as_written(ledger: Ledger, record: ShardRecord, there: Mapping[str, int], *, verify: bool) -> bool:
    return all(
        there.get(file) == stored.bytes and not (verify and content_hash(ledger.store.url(file)) != stored.sha256)
        for file, stored in record.files.items()
    )


def _names(names: Sequence[str], what: str = "shard") -> str:
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({shown})"
