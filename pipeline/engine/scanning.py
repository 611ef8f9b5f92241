"""Scanning the originals as a stage of shards: any worker scans any of them, and what is scanned is joined once.

An engine's workers do what is left (`unscanned`, `scan_shards`), and it is joined (`join_originals`) before the first
gate is opened. The result needs none of this: a gate scans and joins what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import SystemRandom
from typing import TYPE_CHECKING

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.scanning import Eyes, Part, join_parts, left_of, scan_part
from pipeline.anonymity.gate.judges import judges_of
from pipeline.engine.gate import faces_of, originals_of, seers, settings

if TYPE_CHECKING:
    from pipeline.job.plan import Plan


def unscanned(plan: Plan) -> list[str]:
    """The names of the shards whose faces are not kept yet. No model is loaded.

    Each call has an order of its own, so that workers that know nothing of each other seldom scan the same shard.
    Raises `UserError` where the input cannot be opened.
    """
    left = left_of(_parts(plan), faces_of(plan).folder)
    return [part.name for part in SystemRandom().sample(left, len(left))]


def scan_shards(
    plan: Plan, device: str, names: Iterable[str], seen: Callable[[int], None] = lambda images: None
) -> None:
    """Scans the shards with these names, each kept whole as soon as it is done; `names` may wait for others.

    Those that somebody has scanned meanwhile are left as they are. `seen` is told how many more images are done.
    Detector and recognisers are loaded once. Raises `UserError` as `judges_of` does.
    """
    config, mirror = settings(plan), faces_of(plan)
    with FaceFinder(config.detector, workers=config.workers) as finder:
        recognisers = seers(plan, judges_of(config, finder, plan.size, device), device)
        parts = {part.name: part for part in originals_of(plan, Eyes.of(finder, recognisers))}
        for name in names:
            scan_part(parts[name], mirror.folder, finder, recognisers, seen)
            mirror.push()


def join_originals(plan: Plan) -> None:
    """Joins the faces of all shards, so that no two workers do it at once.

    Raises `UserError` where a shard is not scanned.
    """
    mirror = faces_of(plan)
    join_parts(_parts(plan), mirror.folder)
    mirror.push()


def _parts(plan: Plan) -> list[Part]:
    gate = plan.gate
    assert gate is not None
    weights = {**gate.guided_by, **{one.name: one.weights for one in gate.recognisers}}
    eyes = Eyes(detector=gate.detector, detector_weights=gate.detector_weights, recognisers=weights)
    return originals_of(plan, eyes)
