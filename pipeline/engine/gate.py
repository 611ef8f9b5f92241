"""What a job needs to verify its outputs: detector, certified recognisers, and the faces of all originals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.scanning import scan
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.calibration import find_certificate, load_certificate
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.gate import Gate, Judge, gate_facts
from pipeline.errors import UserError
from pipeline.identity import PUBLIC_SALT, hash_json
from pipeline.job.plan import Plan
from pipeline.models.families import sketch_model

FACES = "faces"
"""Folder, beside the ledger, of what was found in the originals. Private, like all there."""


def judges_of(config: AnonymityConfig, finder: FaceFinder, size: tuple[int, int], device: str) -> tuple[Judge, ...]:
    """The recognisers with their certificates. Raises `UserError` for one that may not certify images of this size."""
    given = [load_certificate(Path(file).expanduser()) for file in config.certificates]
    judges = list[Judge]()
    for name in config.recognisers:
        recogniser = load_recogniser(name, device=device, workers=config.workers)
        own = sorted((found for found in given if found.recogniser == name), key=lambda found: found.size != size)
        certificate = own[0] if own else find_certificate(recogniser, finder, size)
        certificate.bind(recogniser, finder, size)
        judges.append(Judge.of(recogniser, certificate, config.threshold))
    return tuple(judges)


def with_gate(plan: Plan) -> Plan:
    """The job with the facts of the gate that it asks for, if any; their hash is the job's.

    Raises `UserError` for all that would keep it from proving anything: a public salt, a missing recogniser, one
    without a certificate for this detector and size, or one that is under its floor.
    """
    if plan.config.anonymity is None or plan.gate is not None:
        return plan
    config, size = _settings(plan)
    if plan.salt == PUBLIC_SALT:
        raise UserError(
            "anonymity needs a secret salt of at least 16 bytes: name run.salt_file, or set the variable DOPPEL_SALT"
        )
    with FaceFinder(config.detector, workers=0) as finder:
        facts = gate_facts(config, finder, judges_of(config, finder, size, "cpu"))
    return replace(plan, gate=facts, hashes={**plan.hashes, "gate": hash_json(facts)})


@contextmanager
def open_gate(plan: Plan, device: str, seen: Callable[[int], None] = lambda images: None) -> Iterator[Gate]:
    """The gate over all originals of the job; they are scanned first where that was not done before.

    `seen` is told how many more were.
    """
    config, size = _settings(plan)
    with FaceFinder(config.detector, workers=config.workers) as finder:
        judges = judges_of(config, finder, size, device)
        originals = scan_originals(plan, finder, [judge.recogniser for judge in judges], seen)
        yield Gate(
            finder=finder,
            judges=judges,
            originals=originals,
            smallest_face=config.smallest_face,
            near_copy=config.near_copy,
        )


def scan_originals(
    plan: Plan, finder: FaceFinder, recognisers: list[Recogniser], seen: Callable[[int], None] = lambda images: None
) -> FaceTable:
    """The faces of all originals, as the model sees them. Raises `UserError` where keys or faces are missing."""
    config, size = _settings(plan)
    folder = Path(plan.config.output.path) / FACES
    table = scan(
        plan.config.input, size=size, fit=plan.config.image.fit, identity=config.identity, finder=finder,
        recognisers=recognisers, folder=folder, on_images=seen,
    )  # fmt: skip
    twice = sum(count - 1 for count in Counter(table.keys).values())
    if twice:
        raise UserError(f"anonymity: {twice} samples have a key that another has too; keys must be unique in the input")
    if not len(table.image):
        raise UserError(f"anonymity: {finder.detector} finds no face in any of {len(table.keys)} originals")
    if config.identity is not None and all(who is None for who in table.identities):
        raise UserError(f"anonymity.identity: {config.identity} names nobody in any of {len(table.keys)} originals")
    return table


def model_size(plan: Plan) -> tuple[int, int]:
    """Height and width of the images that the gate sees."""
    assert plan.config.model is not None
    return sketch_model(plan.config.model).size


def _settings(plan: Plan) -> tuple[AnonymityConfig, tuple[int, int]]:
    assert plan.config.anonymity is not None
    return plan.config.anonymity, model_size(plan)
