"""From encoded samples to committed shards: data and quarantine are published, and the record comes last."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pipeline.anonymity.gate.judged import Judged
from pipeline.engine.events import Event, Progress, ShardDone
from pipeline.engine.windows import Done
from pipeline.errors import UserError
from pipeline.job.plan import Plan
from pipeline.media.records import Rejected, Sample
from pipeline.report.flicker import Flicker
from pipeline.streams import open_writer
from pipeline.streams.contract import InputStream, ShardWriter
from pipeline.streams.ledger import Ledger
from pipeline.streams.quarantine import write_quarantine


class OpenShard:
    """An output shard while it is being written."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer, self.started = writer, time.monotonic()
        self.counts = Counter(read=0, written=0, images=0, quarantined=0, undecodable=0)
        self.rejected: list[Rejected] = []
        self.flicker = Flicker()
        self.judged = Judged()

    def add(self, done: Done, samples: Iterable[Sample]) -> None:
        for output in chain(*done.outputs):
            made = output.provenance
            if made.clip is not None and not made.key.name:
                self.flicker.add((made.clip, made.key.copy), output.row.image, output.image)
            self.judged.add(made.anonymity)
        for sample in samples:
            self.writer.add(sample)
            self.counts["images"] += 1
        rejected = done.batch.rejected + done.refused
        undecodable = sum(bad.kind == "undecodable" for bad in rejected)
        self.rejected += rejected
        self.counts.update(
            read=done.batch.read, written=done.written,
            quarantined=len(rejected) - undecodable, undecodable=undecodable,
        )  # fmt: skip

    def close(self, ledger: Ledger, name: str) -> dict[str, Any]:
        """Publishes data and quarantine; returns counts and files. Raises where a sample got lost."""
        counts = self.counts
        if counts["read"] != counts["written"] + counts["quarantined"] + counts["undecodable"]:
            raise RuntimeError(f"shard {name}: samples were lost ({dict(counts)})")
        data = self.writer.commit()
        kept = write_quarantine(self.rejected, folder=ledger.quarantine, parts=ledger.parts, name=name)
        files = {f"data/{f}": d for f, d in data.items()} | {f"quarantine/{f}": d for f, d in kept.items()}
        seconds = time.monotonic() - self.started
        facts: dict[str, Any] = {"counts": dict(counts), "files": files, "seconds": round(seconds, 3)}
        if self.flicker.inputs is not None:
            facts["flicker"] = {"inputs": self.flicker.inputs, "outputs": self.flicker.outputs}
        if self.judged.attempts:
            facts["anonymity"] = self.judged.facts()
        return facts


def write(
    encoded: Iterable[tuple[Done, list[Sample]]], plan: Plan, stream: InputStream, ledger: Ledger
) -> Iterator[Event]:
    """A shard is published and recorded when its last batch is through."""
    shards = {shard.name: shard for shard in stream.shards}
    output: OpenShard | None = None
    try:
        for done, samples in encoded:
            batch, shard = done.batch, shards[done.batch.shard]
            if output is None:
                made = open_writer(
                    plan.config.output.format, data=ledger.data, parts=ledger.parts, name=shard.name, stream=stream
                )
                output = OpenShard(made)
            output.add(done, samples)
            yield Progress(images=len(samples), rejected=len(batch.rejected) + len(done.refused))
            if batch.last:
                if shard.fingerprint() != batch.fingerprint:
                    raise UserError(f"input shard {shard.name} changed while it was read; run again when it is still")
                source = {"fingerprint": batch.fingerprint, "input_hash": shard.content_hash()}
                record = {"shard": shard.name, **source, "code": plan.code, "hashes": plan.hashes}
                record |= output.close(ledger, shard.name)
                ledger.commit(record)
                output = None
                yield ShardDone(record)
    finally:
        if output is not None:
            output.writer.abort()
