"""The job, as its data flows: shard → decode → operator → encode → shard. Each stage runs beside the next."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.level_range import describe
from pipeline.diffusion.model import Model
from pipeline.errors import UserError
from pipeline.job import Job, JobConfig
from pipeline.memory import ON_CPU, BatchSize, largest_batch
from pipeline.models.clip import ClipJudge, load_clip
from pipeline.models.families import load_model
from pipeline.noise import KeyedNoise
from pipeline.operators import Given, Operator, Transformed
from pipeline.pixels import encode, from_pixels, image_ext, to_pixels
from pipeline.prefetch import prefetch
from pipeline.reading import Reader, reject
from pipeline.records import PROVENANCE, Batch, Frame, Output, Rejected, Row, Sample
from pipeline.report.flicker import Flicker
from pipeline.streams import open_writer
from pipeline.streams.contract import InputShard, InputStream, ShardWriter
from pipeline.streams.ledger import Ledger
from pipeline.streams.quarantine import write_quarantine

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
    models, size = load_models(job.config, device), BatchSize(job.batch_size)
    model = models.first
    if stream.label_names is None and model is not None and job.config.wants(model, "class"):
        stream = replace(stream, label_names=model.class_names)
    remaining = job.config.limit and job.config.limit - sum(r["counts"]["read"] for r in ledger.records())
    with (
        ThreadPoolExecutor(job.config.run.workers) as pool,
        closing(prefetch(Reader(job, model, pool, stream.label_names)(shards, remaining), AHEAD)) as decoded,
        closing(prefetch(((b, *transform(b, models, job, device, size)) for b in decoded), AHEAD)) as transformed,
        closing(prefetch(encode_all(transformed, job.config, pool), AHEAD)) as encoded,
    ):
        yield from write(encoded, job, stream, ledger)


class Models(NamedTuple):
    first: Model | None
    second: Model | None
    judge: ClipJudge | None


def load_models(config: JobConfig, device: str) -> Models:
    first, second = (load_model(c, device) if c else None for c in (config.model, config.second_model))
    judge = load_clip(config.judge.path, config.judge.revision, device) if config.judge else None
    return Models(first, second, judge)


def transform(
    batch: Batch, models: Models, job: Job, device: str, size: BatchSize
) -> tuple[list[Output], list[Rejected]]:
    """All images of a batch, sample by sample; rows whose result is not finite, or not chosen, are refused.

    A short batch is padded to full size, so that a row's bytes don't depend on how many came with it.
    """
    outputs, refused = list[Output](), list[Rejected]()
    if models.first is None:
        facts = {"operator": None, "code": job.code, "config": job.hashes["config"]}
        return [Output(row=r, key=r.sample.key, image=r.image, provenance=facts) for r in batch.rows], []
    for rows, made in size.each(batch.rows, lambda rows: transform_rows(rows, models, job, device)):
        for row, result in zip(rows, made, strict=False):
            if isinstance(result, str):
                refused.append(reject(row.sample, result, undecodable=False))
            else:
                outputs += result
    return outputs, refused


@torch.inference_mode()
def transform_rows(rows: Sequence[Row], models: Models, job: Job, device: str) -> list[list[Output] | str]:
    """The outputs of each row, or why there are none."""
    config, model, operator = job.config, models.first, job.config.operator
    assert model is not None
    assert operator is not None
    facts: dict[str, Any] = {"code": job.code, "config": job.hashes["config"], "batch_size": len(rows)}
    if models.second is not None:
        facts["second_model"] = models.second.hash
    pixels = to_pixels([row.image for row in rows], device)
    z0, given = model.encode(pixels), gather(rows, pixels, config, models, device)
    copies: list[list[list[Output]]] = [[] for _ in rows]
    details: list[list[Mapping[str, Any]]] = [[] for _ in rows]
    finite = torch.ones(len(rows), dtype=torch.bool, device=device)
    for copy in range(operator.copies):
        noise = KeyedNoise(job.salt, [row.noise_key for row in rows], operator.name, copy)
        done = operator(model, z0, given, noise)
        made_so = provenance(operator, done, model, copy)
        beside = {name: from_pixels(images) for name, images in done.beside.items()}
        for images in (done.pixels, *done.others.values(), *done.beside.values()):
            finite &= images.isfinite().flatten(1).all(1)
        made = {name: from_pixels(images) for name, images in {"": done.pixels, **done.others}.items()}
        for i, row in enumerate(rows):
            number = [str(copy)] if operator.copies > 1 else []
            details[i].append(done.details[i] if done.details else {})
            copies[i].append([
                Output(
                    row=row,
                    key="-".join([row.sample.key, *number, *([name] if name else [])]),
                    image=images[i],
                    provenance=made_so[i] | ({"image": name} if name else {})
                    | ({"clip": row.noise_key} if config.clip else {}) | facts,
                    beside={} if name else {other: images[i] for other, images in beside.items()},
                )
                for name, images in made.items()
            ])  # fmt: skip
    return [
        chosen(operator, made, how) if ok else "the model's output is not finite"
        for made, how, ok in zip(copies, details, finite.tolist(), strict=True)
    ]


def chosen(
    operator: Operator, copies: Sequence[list[Output]], details: Sequence[Mapping[str, Any]]
) -> list[Output] | str:
    """The outputs of the copies that the operator keeps, or why it keeps none."""
    kept = operator.choose(details)
    return kept if isinstance(kept, str) else [output for copy in kept for output in copies[copy]]


def try_sizes(job: Job, device: str) -> int:
    """The largest batch that fits, by one step of the operator on blank images."""
    if device == "cpu":
        return ON_CPU
    operator = job.config.operator
    assert operator is not None
    if "steps" in type(operator).model_fields:  # memory does not grow with steps, or copies
        operator = operator.model_copy(update={"steps": 1, "copies": 1})
    job = replace(job, config=job.config.model_copy(update={"operator": operator}))
    models = load_models(job.config, device)
    assert models.first is not None
    row = blank_row(job.config, models.first.size)
    return largest_batch(lambda images: transform_rows([row] * images, models, job, device))


def blank_row(config: JobConfig, size: tuple[int, int]) -> Row:
    """A grey image with all that the recipe gives."""
    height, width = size
    image = np.full((height, width, 3), 127, dtype=np.uint8)
    guides = (config.guide.previous or 1) if config.guide else 0
    return Row(
        sample=Sample(key="blank", image=b"", image_ext="png", label=0),
        frame=Frame(mode="RGB", full=(width, height), size=(width, height), box=(0, 0, width, height)),
        image=image,
        noise_key="blank",
        mask=np.ones((height, width), dtype=np.uint8) if config.mask else None,
        caption="a",
        edited="a",
        guides=(image,) * guides,
    )


def provenance(operator: Operator, done: Transformed, model: Model, copy: int) -> list[dict[str, Any]]:
    """How each row was made."""
    parameters = operator.model_dump(mode="json")
    levels, sigmas = describe(done.sigmas[:, 0], model.levels), done.sigmas.tolist()
    return [
        {
            "operator": operator.name, "parameters": parameters, "copy": copy, "level": level,
            "sigmas": [float(f"{s:.6g}") for s in steps], "model": model.hash,
            **({"details": done.details[i]} if done.details else {}),
        }
        for i, (level, steps) in enumerate(zip(levels, sigmas, strict=True))
    ]  # fmt: skip


def gather(rows: Sequence[Row], pixels: Tensor, config: JobConfig, models: Models, device: str) -> Given:
    """What comes with the images, as the operator takes it."""
    model = models.first
    labels = mask = None
    if model is not None and config.wants(model, "class"):
        labels = torch.tensor([row.sample.label for row in rows], device=device)
    masks = [row.mask for row in rows if row.mask is not None]
    if masks:
        mask = torch.from_numpy(np.stack(masks)).to(device).float()[:, None]
    guides = [to_pixels(images, device) for images in zip(*(row.guides for row in rows), strict=True)]
    captions = [row.caption for row in rows if row.caption is not None]
    edited = [row.edited for row in rows if row.edited is not None]
    return Given(
        pixels=pixels,
        labels=labels,
        captions=captions or None,
        edited=edited or None,
        mask=mask,
        guide=guides[0] if guides else None,
        more_guides=guides[1:],
        second=models.second,
        judge=models.judge,
    )


def encode_all(
    transformed: Iterable[tuple[Batch, list[Output], list[Rejected]]], config: JobConfig, pool: ThreadPoolExecutor
) -> Iterator[tuple[Batch, list[Output], list[Sample], list[Rejected]]]:
    for batch, outputs, refused in transformed:
        yield batch, outputs, list(pool.map(partial(to_sample, config=config), outputs)), refused


def to_sample(output: Output, config: JobConfig) -> Sample:
    """The encoded output with everything that belonged to its source, and its provenance."""
    source, name = output.row.sample, config.operator.image_name if config.operator else ""
    encoded = partial(
        encode,
        frame=output.row.frame,
        codec=None if config.output.codec == "auto" else config.output.codec,
        quality=config.output.quality,
        restore_size=config.image.restore_size,
    )
    data, codec = encoded(output.image)
    extension = image_ext(f"{name}.{source.image_ext}" if name else source.image_ext, codec)
    if extension in source.members:  # a mask of that name is there already
        extension = f"{source.image_ext}.{extension}"
    provenance = dict(output.provenance)
    if PROVENANCE in source.members:
        provenance["before"] = source.members[PROVENANCE].decode(errors="replace")
    beside = {
        image_ext(f"{other}.{source.image_ext}", codec): encoded(image)[0] for other, image in output.beside.items()
    }
    members = {**source.members, **beside, PROVENANCE: json.dumps(provenance).encode()}
    return replace(source, key=output.key, image=data, image_ext=extension, members=members)


class OpenShard:
    """An output shard while it is being written."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer, self.started = writer, time.monotonic()
        self.counts = Counter(read=0, written=0, images=0, quarantined=0, undecodable=0)
        self.rejected: list[Rejected] = []
        self.flicker = Flicker()

    def add(self, batch: Batch, outputs: Iterable[Output], samples: Iterable[Sample], refused: list[Rejected]) -> None:
        for output in outputs:
            if "clip" in output.provenance and not output.provenance.get("image"):
                self.flicker.add(f"{output.row.noise_key}-{output.provenance['copy']}", output.row.image, output.image)
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
        facts: dict[str, Any] = {"counts": dict(counts), "files": files, "seconds": round(seconds, 3)}
        if self.flicker.inputs is not None:
            facts["flicker"] = {"inputs": self.flicker.inputs, "outputs": self.flicker.outputs}
        return facts


def write(
    encoded: Iterable[tuple[Batch, list[Output], list[Sample], list[Rejected]]],
    job: Job,
    stream: InputStream,
    ledger: Ledger,
) -> Iterator[Event]:
    """A shard is published and recorded when its last batch is through."""
    shards = {shard.name: shard for shard in stream.shards}
    output: OpenShard | None = None
    try:
        for batch, outputs, samples, refused in encoded:
            shard = shards[batch.shard]
            if output is None:
                made = open_writer(
                    job.config.output.format, data=ledger.data, parts=ledger.parts, name=shard.name, stream=stream
                )
                output = OpenShard(made)
            output.add(batch, outputs, samples, refused)
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
