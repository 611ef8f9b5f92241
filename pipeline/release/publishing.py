"""Making a folder of a finished job that may be published: what is allowed, renamed, shuffled, and looked at once more.

The order is: keys and labels → faces against all originals → images in secret order → pHash against all originals →
manifest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.anonymity.bound.figures import SourceBound
from pipeline.anonymity.faces.phash import closest
from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.media.rules import PixelRules
from pipeline.release.assessment import Assessment
from pipeline.release.card import THREAT_MODELS
from pipeline.release.config import ReleaseConfig, secret_of
from pipeline.release.copies import check_faces, check_near_copies
from pipeline.release.finished_job import Made, MadeImage
from pipeline.release.manifest import DATA, SEAL, ReleaseCounts, ReleaseManifest, Scans
from pipeline.release.privacy import check_labels, holders, job_token, names_in, nobody_known
from pipeline.release.sealing import MARK, read_seal, remove, staging, verify
from pipeline.release.writing import Packer, write_shards
from pipeline.source_code import code_hash
from pipeline.streams.files import sync_folder

if TYPE_CHECKING:
    from pipeline.anonymity.faces.table import FaceTable


PATH = re.compile(r"(^|\s)(/\w|~/|file:)")
"""A path of this machine, in a text."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The faces that the job's images are compared with before they are published."""

    originals: FaceTable
    """The faces of all originals, whether or not anything was made from them."""
    outputs: FaceTable
    """The faces of the job's images, by their keys in the job."""
    copy_distance: Mapping[str, float]
    """By recogniser, the cosine distance below which two faces are the same one."""
    size: tuple[int, int]
    """Height and width at which the originals were hashed; they were fitted as the job's own images."""


def publish(
    config: ReleaseConfig,
    job_output: Path,
    *,
    salt: bytes,
    evidence: Evidence,
    facts: Mapping[str, Any],
    bound: SourceBound | None = None,
) -> ReleaseManifest:
    """Puts the release together beside its place, and returns its manifest; `document` and `seal` complete it.

    `facts` is what the public may know of operator, model and gate (JSON), without names, keys and places. A sealed
    release of the same job is left as it is. `bound` is what the best attacker can do who holds the originals. Raises
    `UserError` where anything may not be published.
    """
    secret, made = secret_of(salt), Made.by(job_output)
    release = real(config.path)
    tars = {tar.name: digest for tar, digest in made.tars.items()}
    options = config.model_dump(mode="json", exclude={"path", "audit", "sign"})
    token = job_token(secret, {"tars": tars, "release": options, "facts": facts})
    if (release / SEAL).exists():
        return sealed_before(release, token, salt)
    check_facts(facts, evidence.originals)
    check_assessment(config.assessment, evidence.originals)
    entries = list(made.entries(config.members))
    people = dict(zip(evidence.originals.keys, evidence.originals.identities, strict=True))
    shown = [people.get(entry.source) for entry in entries]
    labels = labels_of(entries, shown, config.labels or ())
    released = {entry.key for entry in entries}
    faces = check_faces(evidence.originals, evidence.outputs, released, evidence.copy_distance)
    staged = fresh(release)
    packer = Packer(
        secret=secret,
        people=people,
        quality=made.job.config["output"]["quality"],
        size=evidence.size,
        rules=PixelRules(fit=made.job.config["image"]["fit"]),
    )
    files, hashes = write_shards(packer, entries, labels, data=staged / DATA, shard_size=config.shard_size)
    bits = closest(hashes, evidence.originals.phash)
    copies = check_near_copies(bits, len(evidence.originals.keys), config.near_copy)
    manifest = ReleaseManifest(
        job=token,
        files=files,
        outputs=made.job.outputs,
        counts=ReleaseCounts(
            read=made.read,
            released=len(entries),
            quarantined=dict(made.quarantined),
            released_by_level=dict(sorted(Counter(entry.level for entry in entries).items())),
            released_by_verdict=dict(sorted(Counter(entry.verdict for entry in entries).items())),
            people=None if nobody_known(shown) else len({who for who in shown if who is not None}),
            holders={str(label): count for label, count in holders(labels, shown).items()},
        ),
        members=config.members,
        labels=config.labels,
        facts=json.loads(json.dumps(facts)),
        scans=Scans(faces=faces, near_copies=copies),
        threat_models=THREAT_MODELS,
        bound=bound,
        assessment=config.assessment,
        code=f"{__version__}+{code_hash(__name__)[:12]}",
    )
    sync_folder(staged)
    return manifest


def sealed_before(release: Path, token: str, salt: bytes) -> ReleaseManifest:
    """The manifest of a release that is finished and sound.

    Raises `UserError` for the release of another job, or one that was altered.
    """
    if problems := verify(release):
        raise UserError(f"release.path: {release} is no longer as it was sealed: {'; '.join(problems[:5])}")
    manifest = read_seal(release)
    if manifest.job != token:
        raise UserError(
            f"release.path: {release} holds a release of another job, or with another salt; name a new folder"
        )
    if problems := verify(release, salt):
        raise UserError(f"release.path: {release} is no longer as it was sealed: {problems[0]}")
    return manifest


def check_facts(facts: Mapping[str, Any], originals: FaceTable) -> None:
    """Raises `UserError` where a text in the facts is an absolute path, a source's key, or a person's name."""
    private = _names(originals)
    if any(text in private or text.startswith(("/", "~", "file:")) for text in _texts(facts)):
        raise UserError(
            "what the release would say of its making holds a path of this machine, or a key or name out of the "
            "source: nothing was released"
        )


def check_assessment(assessment: Assessment | None, originals: FaceTable) -> None:
    """Raises `UserError` where a text of the assessment is a path, or holds a source's key or a person's name."""
    names = _names(originals)
    for field, said in (assessment or Assessment()).model_dump(exclude_none=True).items():
        for text in _texts({"": said}):
            if PATH.search(text) or names_in(text.encode(), names):
                raise UserError(
                    f"release.assessment.{field} holds a path, or the key or the name of somebody in the source, and "
                    "would be published: nothing was released"
                )


def _names(originals: FaceTable) -> set[str | None]:
    """Keys, with and without their shard, and the names of people."""
    plain = {key.partition("/")[2] for key in originals.keys if "/" in key}
    return {*originals.keys, *plain, *originals.identities}


def _texts(value: Any) -> Iterator[str]:
    """All keys and texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from (key, *_texts(part))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def labels_of(entries: Sequence[MadeImage], shown: Sequence[str | None], allowed: Sequence[int]) -> list[int | None]:
    """The label that each image is published with; None for none. `shown` says who is in each, where that is known.

    Raises `UserError` where there is no image, a key comes twice, or a label is rare.
    """
    if not entries:
        raise UserError("no image passed the gate: there is nothing to release")
    if twice := len(entries) - len({entry.key for entry in entries}):
        raise UserError(f"{twice} images of the job have a key that another has too; keys must be unique for a release")
    labels = [entry.label if entry.label in allowed else None for entry in entries]
    if allowed and all(label is None for label in labels):
        raise UserError("release.labels: no image of the job has one of the labels to be published")
    check_labels(labels, shown)
    return labels


def fresh(release: Path) -> Path:
    """Makes an empty folder beside the release's place, and removes what an earlier attempt left."""
    staged = staging(release)
    for left in (release, staged):
        remove(left)
    staged.mkdir(parents=True)
    (staged / MARK).touch()
    (staged / DATA).mkdir()
    return staged
