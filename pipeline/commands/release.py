"""Making a release of a finished, verified job: put together, looked at once more, attacked, and only then sealed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser, usable
from pipeline.anonymity.faces.scanning import Eyes, Named, Part, scan_facts, scan_parts
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.facts import said
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judges import judges_of
from pipeline.audit import Audit, examine
from pipeline.audit.examining import write
from pipeline.audit.gathering import OnImages
from pipeline.audit.results import AuditResults
from pipeline.commands.bounding import source_bound
from pipeline.commands.release_places import Places, keep_audit, places_of, publish_release
from pipeline.engine.gate import FACES, attempts_of, gate_of, scan_originals, seers
from pipeline.job.plan import Plan
from pipeline.media.pixels import decode
from pipeline.media.rules import PLAIN
from pipeline.optional import require_package
from pipeline.release import Evidence, check_release, document, publish, seal
from pipeline.release.assessment import check_dates
from pipeline.release.config import signing_key
from pipeline.release.finished_job import Made, read
from pipeline.release.manifest import ReleaseManifest, text_of
from pipeline.release.sealing import staging
from pipeline.streams.ledger import Ledger
from pipeline.streams.mirror import Mirror
from pipeline.streams.places import open_store

MADE = "made"
"""The folder, in that of the faces of the originals, with those of the job's images."""
STRICTLY = 0.9
"""An output counts as another person's face below this fraction of the gate's distance. It is less than 1 because
encoding moves faces a little, and a single such face ends the release."""


def check_export(plan: Plan) -> None:
    """Raises `UserError`, before the job starts, where it could not end in a release and its audit."""
    if plan.config.release is not None:
        require_package("matplotlib", "the audit of a release", extra="plots")
        check_release(plan.config.release, plan.config.output.path, plan.salt, plan.config.run.salt_file)
        assert plan.config.anonymity is not None
        for name in attackers(plan.config.anonymity):
            load_recogniser(name, device=plan.devices[0])


def attackers(config: AnonymityConfig) -> list[str]:
    """The recognisers that attack besides the gate's: all whose weights are there.

    With the gate's own alone, the evidence would be circular.
    """
    return [name for name in usable(config.detector) if name not in config.recognisers]


def export(plan: Plan, on_images: OnImages) -> AuditResults:
    """Publishes what a finished job wrote, audits it, and seals it where the audit finds what the recipe requires.

    Returns the audit, whose evidence says what is not met; then there is no RELEASE.json, as for whatever cannot be
    completed and raises `UserError`.
    """
    config, anonymity = plan.config.release, plan.config.anonymity
    assert config is not None
    assert anonymity is not None
    with places_of(config, plan.config.output.path) as places:
        results, manifest = _made(plan, anonymity, places, on_images)
        keep_audit(places, config)
        if manifest is not None:
            seal(places.release, manifest)
            publish_release(places, config)
        return results


def _made(
    plan: Plan, anonymity: AnonymityConfig, places: Places, on_images: OnImages
) -> tuple[AuditResults, ReleaseManifest | None]:
    """Publishes and audits beside the release's place, and writes the audit; the manifest is None for what is unmet."""
    size, device, config = plan.size, plan.devices[0], places.config
    made = Mirror(open_store(plan.config.output.path), f"{FACES}/{MADE}", ".safetensors")
    made.pull()
    with FaceFinder(anonymity.detector, workers=anonymity.workers) as finder:
        judges = judges_of(anonymity, finder, size, device)
        recognisers = [judge.recogniser for judge in judges]
        originals = scan_originals(plan, finder, seers(plan, judges, device))
        faces = len(originals.image)
        outputs = scan_parts(
            outputs_of(places.job, size, Eyes.of(finder, recognisers)), made.folder, finder, recognisers,
            lambda count: on_images("outputs", count),
        )  # fmt: skip
        made.push()
        copy_distance = {judge.recogniser.name: STRICTLY * judge.copy_distance(faces) for judge in judges}
        evidence = Evidence(originals=originals, outputs=outputs, copy_distance=copy_distance, size=size)
        facts = facts_of(plan, gate_of(anonymity, finder, judges, originals), places.job)
        bound = source_bound(plan, places.job)
        manifest = publish(
            config, places.job, salt=plan.salt, evidence=evidence, facts=facts, bound=bound,
            memory=plan.config.run.memory,
        )  # fmt: skip
        release = places.release
        staged = release if release.exists() else staging(release)
        task = Audit(
            originals=plan.config.input, release=staged, out=places.audit, salt=plan.salt,
            identity=anonymity.identity, size=size, rules=plan.rules,
            model=plan.config.model.path if plan.config.model else None,
            unsealed=manifest, require=config.require, accept=config.accept, sample=config.sample,
        )  # fmt: skip
        others = [load_recogniser(name, device=device) for name in attackers(anonymity)]
        attempts = attempts_of(plan)
        examined = examine(
            task, finder, [*recognisers, *others], device=device, attempts=attempts, on_images=on_images
        )  # fmt: skip
    results = examined.results
    if results.evidence.unmet:
        write(task.out, examined)
        return results, None
    if manifest.evidence is None:  # else it was sealed before
        manifest = manifest.model_copy(update={"evidence": results.evidence})
    check_dates(config.assessment, date.today())  # a job may have taken weeks
    manifest = document(release, manifest, salt=plan.salt, key=signing_key(config))
    results = results.model_copy(update={"release": hashlib.sha256(text_of(manifest).encode()).hexdigest()})
    write(task.out, replace(examined, results=results))
    return results, manifest


def outputs_of(job: Path, size: tuple[int, int], eyes: Eyes) -> list[Part]:
    """The tars of a job, to be scanned for faces as they were written, at height and width `size`."""
    made = Made.by(job)
    facts = scan_facts(eyes, size, PLAIN)
    return [
        Part(name=tar.stem, made_of={**facts, "tar": digest}, images=partial(written, made, tar, size))
        for tar, digest in made.tars.items()
    ]


def written(made: Made, tar: Path, size: tuple[int, int]) -> Iterator[Named]:
    """The key and the pixels of each image as it was written, read back from a tar of the job."""
    with open(tar, "rb") as file:
        for entry in made.entries_of(tar, ()):
            yield entry.key, None, decode(read(file, entry.image), size)[0]


def facts_of(plan: Plan, gate: Gate, job: Path) -> dict[str, Any]:
    """What the public may know about how the release was made.

    Matches with other people are given together with the number that chance would give.
    """
    config = plan.config
    assert config.operator is not None
    assert config.anonymity is not None
    attempts, others, faces = tally(job)
    matches = {
        judge.recogniser.name: {
            "found": others[judge.recogniser.name],
            "by_chance": round(judge.far * faces * len(gate.originals.image), 1),
            "false_match_rate": judge.far,
        }
        for judge in gate.judges
    }
    return {
        "operator": config.operator.model_dump(mode="json"),
        "ladder": [level.model_dump(mode="json") for level in config.anonymity.ladder],
        "images_by_attempt": {str(attempt): count for attempt, count in sorted(attempts.items())},
        "faces_only": config.anonymity.faces_only is not None,
        "undecided": config.anonymity.undecided.model_dump(mode="json"),
        "guidance": config.anonymity.guidance and config.anonymity.guidance.model_dump(mode="json"),
        "model": plan.hashes["model"],
        "licences": sorted({licence.name for licence in plan.licences.values()}),
        "gate": plan.gate.model_dump(mode="json") if plan.gate else None,
        "gate_in_words": said(gate),
        "matches_with_other_people": matches,
    }


def tally(root: Path) -> tuple[Counter[int], Counter[str], int]:
    """Sums over all finished shards: images by attempt, matches with other people by recogniser, and faces."""
    attempts, others, faces = Counter[int](), Counter[str](), 0
    for record in Ledger(root).records():
        if record.anonymity is not None:
            attempts.update(record.anonymity.attempts)
            others.update(record.anonymity.others_within)
            faces += record.anonymity.faces
    return attempts, others, faces
