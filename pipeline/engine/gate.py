"""Everything a job needs to verify its outputs: detector, certified recognisers, and the faces of all originals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.scanning import scan
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.anonymity.gate.judges import judges_of
from pipeline.anonymity.gate.verdicts import WORDS
from pipeline.anonymity.guidance.guide import differentiable
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.job.plan import Plan

FACES = "faces"
"""The folder beside the ledger with the faces that were found in the originals. It is private, like all there."""
ATTEMPTS = "attempts"
"""The folder in it with what the gate refused, by shard."""


@contextmanager
def open_gate(plan: Plan, device: str, seen: Callable[[int], None] = lambda images: None) -> Iterator[Gate]:
    """Opens the gate over all originals of the job, scanning those that were not scanned before.

    `seen` is told how many more are done. Raises `UserError` as `judges_of` and `scan_originals` do.
    """
    config, size = settings(plan), plan.size
    with FaceFinder(config.detector, workers=config.workers) as finder:
        judges = judges_of(config, finder, size, device)
        guides = config.guidance.recognisers if config.guidance else ()
        judging = {judge.recogniser.name: judge.recogniser for judge in judges}
        guiding = {one.name: one for one in differentiable(guides, device, config.workers)}
        originals = scan_originals(plan, finder, list({**guiding, **judging}.values()), seen)
        yield gate_of(config, finder, judges, originals)


def gate_of(config: AnonymityConfig, finder: FaceFinder, judges: tuple[Judge, ...], originals: FaceTable) -> Gate:
    """The gate that a recipe asks for, over the faces of all originals."""
    return Gate(
        finder=finder,
        judges=judges,
        originals=originals,
        smallest_face=config.smallest_face,
        near_copy=config.near_copy,
        passes=frozenset(doubt for doubt in WORDS if getattr(config.undecided, doubt) == "pass"),
    )


def scan_originals(
    plan: Plan, finder: FaceFinder, recognisers: list[Recogniser], seen: Callable[[int], None] = lambda images: None
) -> FaceTable:
    """The faces of all originals, as the model sees them.

    Raises `UserError` where keys are not unique or faces are missing.
    """
    config, size = settings(plan), plan.size
    folder = Path(plan.config.output.path) / FACES
    table = scan(
        plan.config.input, size=size, rules=plan.rules, identity=config.identity, finder=finder,
        recognisers=recognisers, folder=folder, on_images=seen,
    )  # fmt: skip
    if twice := table.index.repeated(table.keys):
        raise UserError(f"anonymity: {twice} samples have a key that another has too; keys must be unique in the input")
    if not len(table.image):
        raise UserError(f"anonymity: {finder.detector} finds no face in any of {len(table.keys)} originals")
    if config.identity is not None and (table.index.person < 0).all():
        raise UserError(f"anonymity.identity: {config.identity} names nobody in any of {len(table.keys)} originals")
    return table


def attempts_file(plan: Plan, shard: str) -> Path:
    """Where the attempts of a shard are kept."""
    return Path(plan.config.output.path) / FACES / ATTEMPTS / f"{shard}.safetensors"


def settings(plan: Plan) -> AnonymityConfig:
    """The section `anonymity:` of a plan that has one."""
    assert plan.config.anonymity is not None
    return plan.config.anonymity
