"""Making a job's plan complete before any work starts: salt, weights, checks, devices, gate and batch size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.gate.facts import GateFacts, gate_facts
from pipeline.anonymity.gate.judges import judges_of
from pipeline.anonymity.guidance.guide import differentiable
from pipeline.diffusion.model import Outline
from pipeline.engine.batch_size import free, remembered
from pipeline.engine.bounding import with_level
from pipeline.engine.devices import resolve_devices
from pipeline.engine.reading import open_input
from pipeline.engine.transforming import try_sizes
from pipeline.errors import UserError
from pipeline.identity import PUBLIC_SALT, hash_json, read_salt
from pipeline.job.config import JobConfig
from pipeline.job.copies import balanced, by_value
from pipeline.job.hashes import hashes
from pipeline.job.plan import Plan, check_job, licences, outlines
from pipeline.media.records import Sample
from pipeline.media.rules import Percentile
from pipeline.streams.ledger import Ledger
from pipeline.streams.pages import paged
from pipeline.streams.places import open_store
from pipeline.streams.probing import ends_of

PASS_THROUGH_BATCH = 64
"""Images that are decoded together in a job without a model."""


def try_here(plan: Plan) -> int:
    """The batch size that fits on the first device of a plan. Raises `UserError` where not even one image does."""
    size = try_sizes(plan, plan.devices[0])
    free()  # the model is gone, and the processes of the job want what it lay in
    return size


def make_plan(config: JobConfig, batch_size: int | None = None, trial: Callable[[Plan], int] = try_here) -> Plan:
    """Makes the plan of a job; `batch_size` replaces the recipe's, and `trial` finds it for `auto`. Writes nothing.

    Raises `UserError` for everything that can be known to be wrong before work starts.
    """
    salt = read_salt(config.run.salt_file)
    model, second = outlines(config)
    found = found_ends(config)
    check_job(config, model, second, config.image.rules(found))
    if config.anonymity is not None and salt == PUBLIC_SALT:
        raise UserError(
            "anonymity needs a secret salt of at least 16 bytes: name run.salt_file, or set the variable DOPPEL_SALT"
        )
    devices = resolve_devices(config.run.devices)
    gate = None if model is None else facts_of_gate(config, model, devices[0])
    parts = hashes(config, model, second, salt) | ({} if gate is None else {"gate": hash_json(gate.model_dump())})
    plan = Plan(
        config=config, salt=salt, outline=model, batch_size=1, devices=devices, hashes=parts,
        licences=licences(config), gate=gate, found=found,
    )  # fmt: skip
    plan = with_level(with_copies(plan))
    return replace(plan, batch_size=batch_size or batch_size_of(plan, trial))


def with_copies(plan: Plan) -> Plan:
    """The plan with the copies of each class, where these differ; its operator then makes as many as any class gets.

    Raises `UserError` for classes that the data set has not, and where it has no labels.
    """
    config, operator = plan.config, plan.config.operator
    if config.copies is None or operator is None:
        return plan
    stream, classes = open_input(plan)
    if config.copies.values is not None:
        copies = by_value(config.copies.values, classes.names, operator.copies)
    else:
        samples = islice(chain.from_iterable(shard.read() for shard in stream.shards), config.limit)
        labels = (classes.read(sample).label for sample in samples if isinstance(sample, Sample))
        copies = balanced(Counter(label for label in labels if label is not None and label >= 0), operator.copies)
        if not copies.of:
            raise UserError("copies.balance: no sample has a label")
    most = operator.model_copy(update={"copies": copies.most})
    return replace(
        plan, config=config.model_copy(update={"operator": most}), copies=copies,
        hashes=plan.hashes | {"copies": hash_json([copies.others, sorted(copies.of.items())])},
    )  # fmt: skip


def found_ends(config: JobConfig) -> tuple[float, float] | None:
    """The numbers that a percentile in `image.range` stands for: those of an earlier run, else those of a probe.

    None where the recipe has no percentile. Raises `UserError` where the probe finds none.
    """
    wanted = config.image.range
    if not isinstance(wanted, Percentile):
        return None
    before = Ledger(config.output.path).job()
    if before is not None and before.found and before.config["image"]["range"] == wanted.model_dump(mode="json"):
        return before.found
    return ends_of(paged(config.input.open(), config.image.frames), wanted)


def facts_of_gate(config: JobConfig, model: Outline, device: str) -> GateFacts | None:
    """What the gate judges by; None where the recipe asks for none.

    Raises `UserError` for all that would keep it from proving anything: a missing recogniser, or one without a
    certificate for this detector and size, or whose certificate is below its floor, or one of the guidance that gives
    no gradients.
    """
    anonymity = config.anonymity
    if anonymity is None:
        return None
    names = anonymity.guidance.recognisers if anonymity.guidance else ()
    guides = differentiable(names, device, anonymity.workers)
    with FaceFinder(anonymity.detector, workers=0) as finder:
        return gate_facts(anonymity, finder, judges_of(anonymity, finder, model.size, device), guides)


def batch_size_of(plan: Plan, trial: Callable[[Plan], int]) -> int:
    """The recipe's batch size; `auto` is found by a trial, or known from an earlier run of the same job."""
    model = plan.config.model
    if model is None:
        return PASS_THROUGH_BATCH
    if model.batch_size != "auto":
        return model.batch_size
    return remembered(open_store(plan.config.output.path), plan.hashes, lambda: trial(plan))
