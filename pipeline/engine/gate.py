"""Everything a job needs to verify its outputs: detector, certified recognisers, and the faces of all originals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.scanning import Eyes, Part, parts_of, scan_parts
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.attempts import Attempts, all_attempts
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.anonymity.gate.judges import judges_of
from pipeline.anonymity.gate.verdicts import WORDS
from pipeline.anonymity.guidance.guide import differentiable
from pipeline.errors import UserError
from pipeline.streams.mirror import Mirror, edited
from pipeline.streams.places import open_store

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
    config = settings(plan)
    with FaceFinder(config.detector, workers=config.workers) as finder:
        judges = judges_of(config, finder, plan.size, device)
        yield gate_of(config, finder, judges, scan_originals(plan, finder, seers(plan, judges, device), seen))


def seers(plan: Plan, judges: Sequence[Judge], device: str) -> list[Recogniser]:
    """Whoever must have seen the originals: the recognisers of the guidance, and those of the gate."""
    config = settings(plan)
    guides = differentiable(config.guidance.recognisers if config.guidance else (), device, config.workers)
    both = {one.name: one for one in guides} | {judge.recogniser.name: judge.recogniser for judge in judges}
    return list(both.values())


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
    plan: Plan, finder: FaceFinder, recognisers: Sequence[Recogniser],
    seen: Callable[[int], None] = lambda images: None,
) -> FaceTable:  # fmt: skip
    """The faces of all originals, as the model sees them.

    Raises `UserError` where keys are not unique or faces are missing.
    """
    config, mirror = settings(plan), faces_of(plan)

    def kept(images: int) -> None:
        mirror.push()
        seen(images)

    table = scan_parts(originals_of(plan, Eyes.of(finder, recognisers)), mirror.folder, finder, recognisers, kept)
    mirror.push()
    if twice := table.index.repeated(table.keys):
        raise UserError(f"anonymity: {twice} samples have a key that another has too; keys must be unique in the input")
    if not len(table.image):
        raise UserError(f"anonymity: {finder.detector} finds no face in any of {len(table.keys)} originals")
    if config.identity is not None and (table.index.person < 0).all():
        raise UserError(f"anonymity.identity: {config.identity} names nobody in any of {len(table.keys)} originals")
    return table


def originals_of(plan: Plan, eyes: Eyes) -> list[Part]:
    """The shards of the originals, as the model sees them. Raises `UserError` where the input cannot be opened."""
    who = settings(plan).identity
    return parts_of(plan.config.input, size=plan.size, rules=plan.rules, identity=who, eyes=eyes)


def faces_of(plan: Plan) -> Mirror:
    """The folder with the faces of the originals, by shard, as it is now."""
    mirror = _mirror(plan.config.output.path)
    mirror.pull()
    return mirror


@cache
def _mirror(place: str) -> Mirror:
    """One for a process, so that nothing is copied twice."""
    return Mirror(open_store(place), FACES, ".safetensors")


def attempts_file(plan: Plan, shard: str) -> AbstractContextManager[Path]:
    """The file in which the attempts of a shard are kept, while it is written; see `edited`."""
    return edited(open_store(plan.config.output.path), f"{FACES}/{ATTEMPTS}/{shard}.safetensors")


def attempts_of(plan: Plan) -> Attempts:
    """The attempts of all shards of the job."""
    mirror = Mirror(open_store(plan.config.output.path), f"{FACES}/{ATTEMPTS}", ".safetensors")
    mirror.pull()
    return all_attempts(mirror.folder, plan.hashes)


def settings(plan: Plan) -> AnonymityConfig:
    """The section `anonymity:` of a plan that has one."""
    assert plan.config.anonymity is not None
    return plan.config.anonymity
