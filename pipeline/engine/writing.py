"""Turning encoded samples into committed shards: data and quarantine are published, and the record comes last."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain

from pipeline.anonymity.gate.verdict_counts import Judged
from pipeline.engine.events import Event, Noted, Progress, ShardDone
from pipeline.engine.windows import Done
from pipeline.errors import UserError
from pipeline.job.plan import Plan
from pipeline.media.records import Batch, Output, Sample, Unread, reject
from pipeline.report.flicker import Flicker
from pipeline.streams import open_writer
from pipeline.streams.contract import InputShard, InputStream, ShardWriter, Unwritable
from pipeline.streams.job_records import Counts, FlickerMeans, ShardRecord
from pipeline.streams.ledger import Ledger
from pipeline.streams.mending import Mending
from pipeline.streams.quarantine import QuarantineWriter
from pipeline.streams.reasons import gist, tally

KEPT = "made with other settings or other code, and kept"
"""The note on samples that are not done again, while others of their shard are."""


RENAMED = (
    "a member has the extension that the image would have, so that the image is called by its old one and the new one, "
    "such as jpg.png; output.codec: jpeg, or another, gives all images one name"
)
"""What people are told of such samples."""


class OpenShard:
    """An output shard while it is being written; with `mending`, what it has kept is written again."""

    def __init__(
        self, writer: ShardWriter, quarantine: QuarantineWriter, mending: Mending | None, *, secret: bool
    ) -> None:
        """With `secret`, its reasons say nothing that is particular to a sample."""
        self.writer, self.quarantine, self.started = writer, quarantine, time.monotonic()
        self.mending, self.secret = mending, secret
        self.counts = Counts()
        self.flicker = Flicker()
        self.judged = Judged()
        self.notes = Counter[str]()
        self.reasons = Counter[str]()

    def add(self, done: Done, samples: Sequence[Sequence[Sample]]) -> Progress:
        """Adds the encoded samples of each sample of a batch, and counts what became of the batch."""
        rejected, written, images = done.batch.rejected + done.refused, 0, 0
        unread = list[Unread | None]()
        for outputs, encoded in zip(done.outputs, samples, strict=True):
            self._keep_before(outputs[0][0].row.sample.key)
            try:
                self.writer.add(encoded)
            except Unwritable as error:
                rejected.append(reject(outputs[0][0].row.sample, str(error), undecodable=False))
                continue
            if any(made.image_ext.rpartition(".")[2] in made.members for made in encoded):
                self.notes[RENAMED] += 1
            self.notes.update({note for frame in outputs[0] for note in frame.row.notes})
            self._note(chain(*outputs))
            unread.append(outputs[0][0].row.sample.unread)
            written, images = written + 1, images + len(encoded)
        for bad in rejected:
            self.quarantine.add(bad)
            self.reasons[gist(bad.reason, secret=self.secret)] += 1
            unread.append(bad.unread)
        wrong = tuple(label for label in unread if label is not None and label.kind != "several")
        kinds = Counter(bad.kind for bad in rejected)
        counts = Counts(
            read=done.batch.read, written=written, images=images,
            quarantined=kinds["refused"], undecodable=kinds["undecodable"], damaged=kinds["damaged"],
            unread=len(wrong),
        )  # fmt: skip
        self.counts += counts
        return Progress(read=counts.read, images=images, rejected=counts.in_quarantine, unread=wrong)

    def _keep_before(self, key: str | None) -> None:
        """Writes what was kept of the samples that come before `key`, so that all lie in the order of the input."""
        for kept in self.mending.before(key) if self.mending else ():
            self.writer.add(kept)
            self.counts += Counts(read=1, written=1, images=len(kept))

    def _note(self, outputs: Iterable[Output]) -> None:
        """Takes from the outputs of one sample what the record of the shard says of them."""
        for output in outputs:
            made = output.provenance
            if made.clip is not None and not made.key.name:
                self.flicker.add((made.clip, made.key.copy), output.row.image, output.image)
            self.judged.add(made.anonymity)

    def close(self, plan: Plan, stream: InputStream, shard: InputShard, batch: Batch, ledger: Ledger) -> ShardRecord:
        """Publishes data and quarantine, and returns counts and files.

        Raises `RuntimeError` where a sample got lost.
        """
        self._keep_before(None)
        counts, name, input_hash = self.counts, shard.name, shard.content_hash()
        if counts.read != counts.written + counts.in_quarantine:
            raise RuntimeError(f"shard {name}: samples were lost ({counts})")
        seconds = time.monotonic() - self.started
        if self.mending is not None:
            before = self.mending.record
            self.notes += Counter(before.notes)
            if before.hashes != plan.hashes:
                self.notes[KEPT] += before.counts.written
            seconds += before.seconds
            ledger.reopen(name)
        files = self.writer.commit() | self.quarantine.commit()
        if ledger.shared:
            ledger.tidy(name, files)
        return ShardRecord(
            shard=name, fingerprint=batch.fingerprint, input_hash=input_hash, classes=stream.classes(), cut=batch.cut,
            code=plan.code, hashes=plan.hashes, counts=counts, notes=dict(self.notes),
            reasons=tally(self.reasons.items()), files=files, seconds=round(seconds, 3),
            ended=datetime.now(UTC).isoformat(timespec="microseconds"),
            flicker=means_of(self.flicker), anonymity=self.judged.totals,
        )  # fmt: skip

    def abort(self) -> None:
        """Removes what was written so far."""
        self.writer.abort()
        self.quarantine.abort()


def means_of(flicker: Flicker) -> FlickerMeans | None:
    """The record of a shard's flicker; None where no clip has two frames."""
    if flicker.inputs is None or flicker.outputs is None:
        return None
    return FlickerMeans(inputs=flicker.inputs, outputs=flicker.outputs)


def write(
    encoded: Iterable[tuple[Done, list[list[Sample]]]],
    plan: Plan,
    stream: InputStream,
    ledger: Ledger,
    mended: Mapping[str, Mending],
) -> Iterator[Event]:
    """Writes encoded samples; a shard is published and recorded when its last batch is through.

    Those that are `mended`, by name, keep what they have written.

    Raises `UserError` where the input shard changed while it was read.
    """
    shards = {shard.name: shard for shard in stream.shards}
    output: OpenShard | None = None
    told = set[str]()
    try:
        for done, samples in encoded:
            batch, shard = done.batch, shards[done.batch.shard]
            if output is None:
                store, parts, name = ledger.store, ledger.parts_of("data"), shard.name
                writer = open_writer(plan.config.output.format, store=store, parts=parts, name=name, stream=stream)
                quarantine = QuarantineWriter(store=store, parts=ledger.parts, name=name)
                secret = plan.config.anonymity is not None
                output = OpenShard(writer, quarantine, mended.get(name), secret=secret)
            yield output.add(done, samples)
            yield from (Noted(note) for note in sorted(output.notes.keys() - told))
            told |= output.notes.keys()
            if batch.last:
                if shard.fingerprint() != batch.fingerprint:
                    raise UserError(f"input shard {shard.name} changed while it was read; run again when it is still")
                record = ledger.record(shard.name) if ledger.shared else None
                if record is None:
                    record = output.close(plan, stream, shard, batch, ledger)
                    ledger.commit(record)
                else:  # somebody took this run for dead, and was faster
                    output.abort()
                output = None
                yield ShardDone(record)
    finally:
        if output is not None:
            output.abort()
