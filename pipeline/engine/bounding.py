"""The bound on attackers who hold the originals: whether a job has one, on which originals, and at which level."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.anonymity.bound.gaussian import one_look
from pipeline.anonymity.bound.measuring import Originals, drawn, level_for
from pipeline.anonymity.gate.families import check_levels, families_of
from pipeline.diffusion.exactness import exact
from pipeline.diffusion.level_range import LevelRange
from pipeline.engine.batch_size import free
from pipeline.engine.reading import Limited, wanted
from pipeline.errors import UserError
from pipeline.identity import hash_json
from pipeline.job.captions import wants
from pipeline.media.looks import looks_of
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import decode, to_pixels
from pipeline.media.records import Sample
from pipeline.models.cascade import CascadeSketch
from pipeline.models.families import load_model
from pipeline.streams.ledger import Ledger
from pipeline.streams.pages import paged

if TYPE_CHECKING:
    from pipeline.job.plan import Plan
    from pipeline.media.frame import Frame
    from pipeline.media.records import Pixels8

MOST, BYTES = 10_000, 1 << 30
"""Candidates among which a source is searched, and bytes of their latents, at most. Of more originals a random part is
taken: a source is found more easily among fewer, so the bound stays one."""
BATCH = 64
"""Images that are encoded together."""
DIGITS = 10_000
"""A level that was found is rounded up to so many parts of T, so that it tells little of the originals."""


def no_bound(plan: Plan) -> str | None:
    """Why attackers who hold the originals cannot be bounded, as a clause; None where they can."""
    config, model = plan.config, plan.outline
    operator, gate = config.operator, config.anonymity
    if operator is None or model is None:
        return "images pass through as they are"
    if isinstance(model, CascadeSketch):
        return "each stage of a cascade looks at the original anew, at another size"
    if gate is not None and (gate.faces_only or gate.keep):
        return "anonymity.faces_only and keep leave pixels of the original as they are"
    if gate is not None and gate.guidance is not None:
        return "anonymity.guidance looks at the faces of the original at every step"
    if operator.least_noise(model) is None:
        return f"operator {operator.name} goes by more of an original than its noised latent"
    if any(wants(operator, model, "text", condition) for condition in ("own", "edited")):
        return "the model is given captions of the originals"
    if config.release is not None and config.release.members:
        return "release.members publishes members of the originals as they are"
    return None


def hiding(plan: Plan) -> list[float]:
    """The least noise σ of each round, the operator's own and those of the ladder; all copies are one look."""
    operator, ladder = plan.config.operator, () if plan.config.anonymity is None else plan.config.anonymity.ladder
    assert operator is not None
    assert plan.outline is not None
    levels = [one.least_noise(plan.outline) for one in (operator, *map(operator.at, ladder))]
    return [one_look([level or 0.0] * operator.copies) for level in levels]


def with_level(plan: Plan) -> Plan:
    """The plan with the level that its recipe asks a bound for: the lowest at which the best attacker stays within it.

    Copies and the levels of the ladder count as further looks at an original. It is found by Monte Carlo on all
    originals with noise of its own, so that the same data give the same level; a job that goes on keeps its level.
    Raises `UserError` where there is no bound, or no level that reaches it.
    """
    operator, model = plan.config.operator, plan.outline
    if operator is None or model is None or (bound := operator.sought) is None:
        return plan
    option = f"operator.{operator.dial}: {{bound: {bound:g}}}"
    loudest = at(plan, LevelRange(low=1, high=1))
    if (why := no_bound(loudest)) is not None:
        raise UserError(f"{option}: there is no bound to find a level for: {why}")
    before = Ledger(plan.config.output.path).job()
    if before is not None and {k: v for k, v in before.hashes.items() if k != "level"} == plan.hashes:
        level = LevelRange.model_validate(before.config["operator"][operator.dial])
        return settled(plan, level)
    critical, _ = drawn(gather(plan))
    try:
        sigma = level_for(critical, bound)
    except ValueError as error:
        raise UserError(f"{option}: no level is high enough: {error}") from None
    own, *ladder = hiding(loudest)
    left = 1 / sigma**2 - sum(1 / rung**2 for rung in ladder)
    if left <= 0:
        raise UserError(f"{option}: no level is high enough: the levels of the ladder alone tell more than that")
    needed = left**-0.5 * math.sqrt(operator.copies)
    fraction = math.ceil(float(model.levels.fraction(torch.tensor(needed, dtype=torch.float64))) * DIGITS) / DIGITS
    found = at(plan, LevelRange(low=min(fraction, 1), high=min(fraction, 1)))
    if one_look(hiding(found)) < sigma:
        raise UserError(
            f"{option}: no level is high enough: it takes noise of σ = {needed:.4g}, and the most that this model and "
            f"operator.spacing add is {own * math.sqrt(operator.copies):.4g}"
        )
    gate = plan.config.anonymity
    families = () if gate is None or gate.one_family == "accepted" else families_of(gate.recognisers)
    if len(families) == 1:
        try:
            check_levels(families[0], {option: LevelRange(low=fraction, high=fraction)})
        except ValueError as error:
            raise UserError(str(error)) from None
    return settled(plan, LevelRange(low=fraction, high=fraction))


def at(plan: Plan, level: LevelRange) -> Plan:
    """The plan with its operator at a level."""
    assert plan.config.operator is not None
    return replace(plan, config=plan.config.model_copy(update={"operator": plan.config.operator.at(level)}))


def settled(plan: Plan, level: LevelRange) -> Plan:
    """The plan at the level that was found, which is part of what decides the bytes."""
    operator = plan.config.operator
    assert operator is not None
    hashes = plan.hashes | {"level": hash_json(level.model_dump(mode="json"))}
    return replace(at(plan, level), hashes=hashes, bound=operator.sought)


def gather(plan: Plan) -> Originals:
    """Encodes the originals of a job as its model does; of very many, those whose keys have the smallest hashes.

    Raises `UserError` where none can be read.
    """
    config, device = plan.config, plan.devices[0]
    assert config.model is not None
    model = load_model(config.model, device)
    most = min(MOST, max(2, BYTES // (4 * math.prod(model.shape))))
    kept = list[tuple[int, int, str, Hashable, list[torch.Tensor]]]()  # numbered, so that keys are never compared
    total, waiting = 0, list[tuple[int, int, str, Hashable, "Pixels8"]]()

    @torch.inference_mode()
    @exact()
    def take() -> None:
        if not waiting:
            return
        images = [image for *_, image in waiting]
        latents = model.encode(to_pixels(images, device)).flatten(1).float().cpu()
        looks = looks_of(torch.from_numpy(np.stack(images)).movedim(3, 1))
        for (rank, number, key, group, _), *told in zip(waiting, latents, looks, strict=True):
            heapq.heappush(kept, (-rank, number, key, group, told))
            if len(kept) > most:
                heapq.heappop(kept)
        waiting.clear()

    for sample, rank in ranked(plan):
        total += 1
        if len(kept) == most and rank >= -kept[0][0]:
            continue
        try:
            image, frame = decode(sample.image, plan.size, plan.rules)
        except Undecodable:
            total -= 1
            continue
        waiting.append((rank, total, sample.full_key, visible(plan, sample, frame), image))
        if len(waiting) == BATCH:
            take()
    take()
    free()
    kept.sort(key=lambda one: (-one[0], one[1]))
    if not kept:
        raise UserError("input: no image of it can be read")
    numbers = {group: i for i, group in enumerate(dict.fromkeys(group for *_, group, _ in kept))}
    return Originals(
        keys=tuple(key for *_, key, _, _ in kept),
        latents=torch.stack([latent for *_, (latent, _) in kept]).to(device),
        groups=torch.tensor([numbers[group] for *_, group, _ in kept], device=device),
        looks=torch.stack([look for *_, (_, look) in kept]),
        total=total,
    )


def ranked(plan: Plan) -> Iterator[tuple[Sample, int]]:
    """Yields the samples that the job reads, each with a number that is as good as random, and always the same."""
    shards = paged(plan.config.input.open(), plan.rules.frames).shards
    samples = chain.from_iterable(shard.read() for shard in shards)
    for sample in Limited(samples, plan.config.limit):
        if isinstance(sample, Sample):
            digest = hashlib.blake2b(sample.full_key.encode(), digest_size=8, person=b"bound").digest()
            yield sample, int.from_bytes(digest)


def visible(plan: Plan, sample: Sample, frame: Frame) -> Hashable:
    """All that an output tells of its original beside the pixels: size, whether it is grey, and, where the model, the
    number of copies or the release goes by it, the label.
    """
    config, model = plan.config, plan.outline
    assert model is not None
    shown = wanted(frame, config.image)
    label = sample.label
    if not wants(config.operator, model, "class") and config.copies is None:
        published = config.release.labels if config.release is not None else None
        label = label if label in (published or ()) else None
    return shown.output, shown.mode, label
