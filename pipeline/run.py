"""The job, as its data flows: shard → decode → operator → encode → shard. Each stage runs beside the next."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from pipeline.diffusion.level_range import describe
from pipeline.errors import UserError
from pipeline.job import Job, JobConfig
from pipeline.models.pixel import PixelModel, load_pixel_model
from pipeline.noise import KeyedNoise
from pipeline.pixels import Undecodable, decode, encode, from_pixels, image_ext, to_pixels
from pipeline.prefetch import prefetch
from pipeline.records import PROVENANCE, Batch, Output, Rejected, Row, Sample
from pipeline.streams import open_writer
from pipeline.streams.contract import InputShard, InputStream, ShardWriter
from pipeline.streams.ledger import Ledger
from pipeline.streams.quarantine import write_quarantine

PASS_THROUGH_BATCH = 64
AHEAD = 2
"""Batches that wait between two stages."""


@dataclass(frozen=True)
class Progress:
    """Some images of a shard are through."""

    images: int
    rejected: int


@dataclass(frozen=True)
class ShardDone:
    record: dict[str, Any]


Event = Progress | ShardDone


def process(
    shards: Iterable[InputShard], job: Job, stream: InputStream, ledger: Ledger, device: str
) -> Generator[Event, None, None]:
    """Runs the job over `shards` on one device; a shard is committed before its `ShardDone` is yielded.

    Closing the generator leaves finished shards finished and nothing else behind.
    """
    model = load_pixel_model(job.config.model, device) if job.config.model else None
    if stream.label_names is None and model is not None and wants_labels(model, job.config):
        stream = replace(stream, label_names=model.class_names)
    remaining = job.config.limit and job.config.limit - sum(r["counts"]["read"] for r in ledger.records())
    with (
        ThreadPoolExecutor(job.config.run.workers) as pool,
        closing(prefetch(read(shards, job.config, model, pool, stream.label_names, remaining), AHEAD)) as decoded,
        closing(prefetch(((b, *transform(b, model, job, device)) for b in decoded), AHEAD)) as transformed,
        closing(prefetch(encode_all(transformed, job.config, pool), AHEAD)) as encoded,
    ):
        yield from write(encoded, job, stream, ledger)


def read(
    shards: Iterable[InputShard],
    config: JobConfig,
    model: PixelModel | None,
    pool: ThreadPoolExecutor,
    label_names: tuple[str, ...] | None = None,
    remaining: int | None = None,
) -> Iterator[Batch]:
    """Decoded batches, never across a shard; every shard ends with a batch marked `last`."""
    size = config.model.batch_size if config.model else PASS_THROUGH_BATCH
    to_row = partial(decode_row, config=config, model=model, label_names=label_names)
    for shard in shards:
        if remaining == 0:
            return
        fingerprint, rows, rejected, count = shard.fingerprint(), list[Row](), list[Rejected](), 0
        batch = partial(Batch, shard=shard.name, fingerprint=fingerprint)
        samples = islice(shard.read(), remaining)
        while chunk := list(islice(samples, size)):
            count += len(chunk)
            for item in pool.map(to_row, chunk):
                if isinstance(item, Row):
                    rows.append(item)
                else:
                    rejected.append(item)
            if remaining is not None:
                remaining -= len(chunk)
            if len(rows) >= size:
                yield batch(rows=rows[:size], rejected=rejected, read=count, last=False)
                rows, rejected, count = rows[size:], [], 0
        yield batch(rows=rows, rejected=rejected, read=count, last=True)


def decode_row(
    sample: Sample | Rejected, *, config: JobConfig, model: PixelModel | None, label_names: tuple[str, ...] | None
) -> Row | Rejected:
    """A sample's image, fitted to the model, or why the sample cannot be used."""
    if isinstance(sample, Rejected):
        return sample
    problem = label_problem(sample.label, config, model, label_names)
    if problem is not None:
        return reject(sample, problem, undecodable=False)
    try:
        image, frame = decode(sample.image, model.size if model else None, config.image.fit)
    except Undecodable as error:
        return reject(sample, str(error), undecodable=True)
    return Row(sample=sample, frame=frame, image=image)


def label_problem(
    label: int | None, config: JobConfig, model: PixelModel | None, names: tuple[str, ...] | None
) -> str | None:
    """Why a sample with this label can't be used. Without need for labels, −1 is the convention for "none"."""
    if model is not None and wants_labels(model, config):
        highest = (model.classes or 0) - 1
        if label is None:
            way_out = "" if model.null_label is None else " (operator.use_labels: false goes without)"
            return f"no class label, and the model needs one of 0 to {highest}{way_out}"
        if not 0 <= label <= highest:
            return f"label {label} is out of range: the model knows 0 to {highest}"
    if label is not None and names is not None and not -1 <= label < len(names):
        return f"label {label} is out of range: the data set names 0 to {len(names) - 1}"
    return None


def wants_labels(model: PixelModel, config: JobConfig) -> bool:
    return model.classes is not None and config.operator is not None and config.operator.use_labels


def reject(sample: Sample, reason: str, *, undecodable: bool) -> Rejected:
    return Rejected(
        key=sample.key,
        reason=reason,
        kind="undecodable" if undecodable else "refused",
        origin=sample.origin,
        members={sample.image_ext: sample.image, **sample.members},
    )


@torch.inference_mode()
def transform(batch: Batch, model: PixelModel | None, job: Job, device: str) -> tuple[list[Output], list[Rejected]]:
    """All copies of a batch, sample by sample; rows whose result is not finite are refused.

    A short batch is padded to full size, so that a row's bytes don't depend on how many came with it.
    """
    config = job.config
    facts = {"code": job.code, "config": job.hashes["config"]}
    if model is None or config.model is None or config.operator is None:
        same = [
            Output(row=r, key=r.sample.key, image=r.image, provenance={"operator": None, **facts}) for r in batch.rows
        ]
        return same, []
    if not batch.rows:
        return [], []
    rows = batch.rows + [batch.rows[-1]] * (config.model.batch_size - len(batch.rows))
    z0 = model.encode(to_pixels([row.image for row in rows], device))
    labels = None
    if wants_labels(model, config):
        labels = torch.tensor([row.sample.label for row in rows], device=device)
    by_row: list[list[Output]] = [[] for _ in batch.rows]
    bad: set[int] = set()
    parameters = config.operator.model_dump(mode="json")
    for copy in range(config.operator.copies):
        noise = KeyedNoise(job.salt, [row.sample.key for row in rows], config.operator.name, copy)
        z, sigmas = config.operator(model, z0, labels, noise)
        pixels = model.decode(z)
        bad |= {i for i, finite in enumerate(pixels.isfinite().flatten(1).all(1).tolist()) if not finite}
        levels, steps = describe(sigmas[:, 0], model.levels), sigmas.tolist()
        for i, (row, image) in enumerate(zip(batch.rows, from_pixels(pixels), strict=False)):
            how = {
                "operator": config.operator.name, "parameters": parameters, "copy": copy, "level": levels[i],
                "sigmas": [float(f"{s:.6g}") for s in steps[i]], "model": model.hash, **facts,
            }  # fmt: skip
            key = row.sample.key if config.operator.copies == 1 else f"{row.sample.key}-{copy}"
            by_row[i].append(Output(row=row, key=key, image=image, provenance=how))
    refused = [
        reject(batch.rows[i].sample, "the model's output is not finite", undecodable=False)
        for i in sorted(bad)
        if i < len(batch.rows)
    ]
    return [output for i, outputs in enumerate(by_row) if i not in bad for output in outputs], refused


def encode_all(
    transformed: Iterable[tuple[Batch, list[Output], list[Rejected]]], config: JobConfig, pool: ThreadPoolExecutor
) -> Iterator[tuple[Batch, list[Sample], list[Rejected]]]:
    for batch, outputs, refused in transformed:
        yield batch, list(pool.map(partial(to_sample, config=config), outputs)), refused


def to_sample(output: Output, config: JobConfig) -> Sample:
    """The encoded output with everything that belonged to its source, and its provenance."""
    source = output.row.sample
    data, codec = encode(
        output.image,
        output.row.frame,
        codec=None if config.output.codec == "auto" else config.output.codec,
        quality=config.output.quality,
        restore_size=config.image.restore_size,
    )
    extension = image_ext(source.image_ext, codec)
    if extension in source.members:  # a mask of that name is there already
        extension = f"{source.image_ext}.{extension}"
    provenance = dict(output.provenance)
    if PROVENANCE in source.members:
        provenance["before"] = source.members[PROVENANCE].decode(errors="replace")
    members = {**source.members, PROVENANCE: json.dumps(provenance).encode()}
    return replace(source, key=output.key, image=data, image_ext=extension, members=members)


class OpenShard:
    """An output shard while it is being written."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer, self.started = writer, time.monotonic()
        self.counts = Counter(read=0, written=0, images=0, quarantined=0, undecodable=0)
        self.rejected: list[Rejected] = []

    def add(self, batch: Batch, samples: Iterable[Sample], refused: list[Rejected]) -> None:
        for sample in samples:
            self.writer.add(sample)
            self.counts["images"] += 1
        rejected = batch.rejected + refused
        undecodable = sum(bad.kind == "undecodable" for bad in rejected)
        self.rejected += rejected
        self.counts.update(
            read=batch.read, written=len(batch.rows) - len(refused),
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
        return {"counts": dict(counts), "files": files, "seconds": round(seconds, 3)}


def write(
    encoded: Iterable[tuple[Batch, list[Sample], list[Rejected]]], job: Job, stream: InputStream, ledger: Ledger
) -> Iterator[Event]:
    """A shard is published and recorded when its last batch is through."""
    shards = {shard.name: shard for shard in stream.shards}
    output: OpenShard | None = None
    try:
        for batch, samples, refused in encoded:
            shard = shards[batch.shard]
            if output is None:
                made = open_writer(
                    job.config.output.format, data=ledger.data, parts=ledger.parts, name=shard.name, stream=stream
                )
                output = OpenShard(made)
            output.add(batch, samples, refused)
            yield Progress(images=len(samples), rejected=len(batch.rejected) + len(refused))
            if batch.last:
                if shard.fingerprint() != batch.fingerprint:
                    raise UserError(f"input shard {shard.name} changed while it was read; run again when it is still")
                source = {"fingerprint": batch.fingerprint, "input_hash": shard.content_hash()}
                record = {"shard": shard.name, **source, "code": job.code, "hashes": job.hashes}
                record |= output.close(ledger, shard.name)
                ledger.commit(record)
                output = None
                yield ShardDone(record)
    finally:
        if output is not None:
            output.writer.abort()
