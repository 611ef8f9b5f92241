"""The job, as its data flows: shard → decode → operator → (gate →) encode → shard. Each stage runs beside the next.

Where the gate finds somebody recognisable, the row climbs: it goes round again at the next level, and in the end to
quarantine.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.anonymity.gate.judged import Judged
from pipeline.engine.ladder import climb
from pipeline.engine.prefetch import prefetch
from pipeline.engine.reading import Reader
from pipeline.engine.transforming import transform_all
from pipeline.engine.windows import Done, whole
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.media.clips import Clip, write_clip
from pipeline.media.frames import unfit_frame
from pipeline.media.pixels import encode, image_ext
from pipeline.media.records import PROVENANCE, Output, Rejected, Row, Sample
from pipeline.models.families import sketch_model
from pipeline.report.flicker import Flicker
from pipeline.streams import open_writer
from pipeline.streams.contract import InputShard, InputStream, ShardWriter
from pipeline.streams.ledger import Ledger
from pipeline.streams.quarantine import write_quarantine

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

AHEAD = 2
"""Batches that wait between two stages."""


@dataclass(frozen=True)
class Progress:
    """Some images of a shard are through; a clip counts as one."""

    images: int
    rejected: int


@dataclass(frozen=True)
class ShardDone:
    record: dict[str, Any]


@dataclass(frozen=True)
class Scanned:
    """Some originals were scanned for faces."""

    images: int


Event = Scanned | Progress | ShardDone


def process(
    shards: Iterable[InputShard], plan: Plan, stream: InputStream, ledger: Ledger, device: str
) -> Generator[Event, None, None]:
    """Runs the job over `shards` on one device; a shard is committed before its `ShardDone` is yielded.

    Closing the generator leaves finished shards finished and nothing else behind.
    """
    model = sketch_model(plan.config.model) if plan.config.model else None
    if stream.label_names is None and model is not None and plan.config.wants(model, "class"):
        stream = replace(stream, label_names=model.class_names)
    transformed_by = transform_all if plan.config.anonymity is None else climb
    remaining = plan.config.limit and plan.config.limit - sum(r["counts"]["read"] for r in ledger.records())
    with (
        ThreadPoolExecutor(plan.config.run.workers) as pool,
        closing(prefetch(Reader(plan, model, pool, stream.label_names)(shards, remaining), AHEAD)) as decoded,
        closing(prefetch(transformed_by(decoded, plan, device), AHEAD)) as transformed,
        closing(prefetch(encode_all(whole(transformed), plan.config, pool), AHEAD)) as encoded,
    ):
        yield from write(encoded, plan, stream, ledger)


def encode_all(
    batches: Iterable[Done], config: JobConfig, pool: ThreadPoolExecutor
) -> Iterator[tuple[Done, list[Sample]]]:
    for done in batches:
        yield done, list(pool.map(partial(to_sample, config=config), done.outputs))


def to_sample(frames: Sequence[Output], config: JobConfig) -> Sample:
    """The encoded output with everything that belonged to its source, and its provenance; of a clip, all its frames."""
    output, name = frames[0], config.operator.image_name if config.operator else ""
    source = output.row.sample
    member = partial(to_member, row=output.row, config=config)
    extension, data = member(name, [frame.image for frame in frames])
    if extension in source.members:  # a mask of that name is there already
        extension = f"{source.image_ext}.{extension}"
    provenance = dict(output.provenance)
    if output.row.reel and "details" in provenance:
        provenance["details"] = [frame.provenance["details"] for frame in frames]
    if PROVENANCE in source.members:
        provenance["before"] = source.members[PROVENANCE].decode(errors="replace")
    beside = dict(member(other, [frame.beside[other] for frame in frames]) for other in output.beside)
    members = {**source.members, **beside, PROVENANCE: json.dumps(provenance).encode()}
    return replace(source, key=output.key, image=data, image_ext=extension, members=members)


def to_member(name: str, images: Sequence[Pixels8], row: Row, config: JobConfig) -> tuple[str, bytes]:
    """Extension and bytes of an image, or of a clip in the container of its source."""
    extension = f"{name}.{row.sample.image_ext}" if name else row.sample.image_ext
    if row.reel is not None:
        pictures = np.stack([unfit_frame(image, row.frame, config.image.restore_size) for image in images])
        reel = row.reel
        clip = Clip(frames=pictures, seconds=reel.seconds, container=reel.container, loop=reel.loop)
        return extension, write_clip(clip)
    data, codec = encode(
        images[0],
        row.frame,
        codec=None if config.output.codec == "auto" else config.output.codec,
        quality=config.output.quality,
        restore_size=config.image.restore_size,
    )
    return image_ext(extension, codec), data


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
            if "clip" in output.provenance and not output.provenance.get("image"):
                self.flicker.add(f"{output.row.noise_key}-{output.provenance['copy']}", output.row.image, output.image)
            self.judged.add(output.provenance.get("anonymity"))
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
