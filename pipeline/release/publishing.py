"""Making a folder of a finished job that may be published: what is allowed, renamed, shuffled, and looked at once more.

The order is: keys and labels → faces against all originals → images in secret order → pHash against all originals →
manifest.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from pipeline.release.shuffling import Shuffle
from pipeline.release.writing import Packer, published, write_shards
from pipeline.source_code import code_hash
from pipeline.streams.files import sync_folder
from pipeline.streams.places import PARTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.anonymity.faces.table import FaceTable


MEMORY = 1 << 30
"""Bytes of images that are held at once where nothing else is said."""
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

    def who(self, source: str) -> str | None:
        """Who is in the original with this full key; None where that is unknown, or there is none."""
        number = self.originals.index.find(self.originals.keys, source)
        return None if number is None else self.originals.identities[number]


def publish(
    config: ReleaseConfig,
    job_output: Path,
    *,
    salt: bytes,
    evidence: Evidence,
    facts: Mapping[str, Any],
    bound: SourceBound | None = None,
    memory: int = MEMORY,
) -> ReleaseManifest:
    """Puts the release together beside its place, and returns its manifest; `document` and `seal` complete it.

    `facts` is what the public may know of operator, model and gate (JSON), without names, keys and places. A sealed
    release of the same job is left as it is. `bound` is what the best attacker can do who holds the originals. At most
    about `memory` bytes of images are held, and some 60 bytes for each. Raises `UserError` where anything may not be
    published.
    """
    secret, made = secret_of(salt), Made.by(job_output)
    release = real(config.path)
    tars = {tar.name: digest for tar, digest in made.tars.items()}
    options = config.model_dump(mode="json", exclude={"path", "audit", "sign", "sample"})
    token = job_token(secret, {"tars": tars, "release": options, "facts": facts})
    if (release / SEAL).exists():
        return sealed_before(release, token, salt)
    check_facts(facts, evidence.originals)
    check_assessment(config.assessment, evidence.originals)
    spool = job_output / PARTS / "release"
    remove_spool(spool)
    try:
        shuffle = Shuffle(spool, secret, buckets_for(made.tars, memory))
        taken = take(made.entries(config.members), shuffle, evidence, config.labels or ())
        check_taken(shuffle, taken, config.labels or ())
        faces = check_faces(evidence.originals, evidence.outputs, taken.seen, evidence.copy_distance)
        staged = fresh(release)
        packer = Packer(
            secret=secret,
            who=evidence.who,
            quality=made.job.config["output"]["quality"],
            size=evidence.size,
            rules=PixelRules(fit=made.job.config["image"]["fit"]),
        )
        files, hashes = write_shards(
            packer, shuffle, config.labels or (), data=staged / DATA, shard_size=config.shard_size
        )  # fmt: skip
    finally:
        remove_spool(spool)
    bits = closest(hashes, evidence.originals.phash)
    copies = check_near_copies(bits, len(evidence.originals.keys), config.near_copy)
    manifest = ReleaseManifest(
        job=token,
        files=files,
        outputs=made.job.outputs,
        counts=ReleaseCounts(
            read=made.read,
            released=len(shuffle),
            quarantined=dict(made.quarantined),
            released_by_level=dict(sorted(taken.levels.items())),
            released_by_verdict=dict(sorted(taken.verdicts.items())),
            people=None if nobody_known(taken.shown) else len({who for who in taken.shown if who is not None}),
            holders={str(label): count for label, count in holders(taken.labels, taken.shown).items()},
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
    texts = set(_texts(facts))
    if any(text.startswith(("/", "~", "file:")) for text in texts) or any(
        name in texts for name in _names(originals)
    ):  # fmt: skip
        raise UserError(
            "what the release would say of its making holds a path of this machine, or a key or name out of the "
            "source: nothing was released"
        )


def check_assessment(assessment: Assessment | None, originals: FaceTable) -> None:
    """Raises `UserError` where a text of the assessment is a path, or holds a source's key or a person's name."""
    for field, said in (assessment or Assessment()).model_dump(exclude_none=True).items():
        for text in _texts({"": said}):
            if PATH.search(text) or names_in(text.encode(), _names(originals)):
                raise UserError(
                    f"release.assessment.{field} holds a path, or the key or the name of somebody in the source, and "
                    "would be published: nothing was released"
                )


def _names(originals: FaceTable) -> Iterator[str | None]:
    """Yields keys, with and without their shard, and the names of people."""
    for key in originals.keys:
        yield key
        if "/" in key:
            yield key.partition("/")[2]
    yield from originals.identities


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


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is kept in memory of the M images of the job: a few bytes of each."""

    shown: list[str | None]
    """`[M]`: who is in each, where that is known; one text for each person."""
    labels: list[int | None]
    """`[M]`: the label that each is published with; None for none."""
    levels: Counter[str]
    verdicts: Counter[str]
    """How many images there are of each level and verdict."""
    seen: NDArray[np.bool_]
    """`[N]`: which images in the table of outputs are among them."""
    unseen: int
    """How many of them are not in that table."""


def take(
    entries: Iterable[MadeImage], shuffle: Shuffle, evidence: Evidence, allowed: Container[int]
) -> Taken:  # fmt: skip
    """Puts all images into the shuffle, and tells of them what is decided over all."""
    outputs, names = evidence.outputs, dict[str | None, str | None]()
    taken = Taken(
        shown=[], labels=[], levels=Counter(), verdicts=Counter(), seen=np.zeros(len(outputs.keys), bool), unseen=0
    )  # fmt: skip
    unseen = 0
    for entry in entries:
        shuffle.add(entry)
        who = evidence.who(entry.source)
        taken.shown.append(names.setdefault(who, who))
        taken.labels.append(published(entry.label, allowed))
        taken.levels[entry.level] += 1
        taken.verdicts[entry.verdict] += 1
        number = outputs.index.find(outputs.keys, entry.key)
        if number is None:
            unseen += 1
        else:
            taken.seen[number] = True
    return replace(taken, unseen=unseen)


def check_taken(shuffle: Shuffle, taken: Taken, allowed: Sequence[int]) -> None:
    """Raises `UserError` where there is no image, a key comes twice, a label is rare, or a face was not looked at."""
    if not len(shuffle):
        raise UserError("no image passed the gate: there is nothing to release")
    if twice := shuffle.repeated():
        raise UserError(f"{twice} images of the job have a key that another has too; keys must be unique for a release")
    if allowed and all(label is None for label in taken.labels):
        raise UserError("release.labels: no image of the job has one of the labels to be published")
    check_labels(taken.labels, taken.shown)
    if taken.unseen:
        raise UserError(
            f"{taken.unseen} of {len(shuffle)} images to be released were not scanned for faces; scan them all"
        )


def buckets_for(tars: Iterable[Path], memory: int) -> int:
    """How many buckets hold at most about half of `memory` bytes each; a tar is longer than all that is kept of it."""
    return max(1, ceil(2 * sum(tar.stat().st_size for tar in tars) / memory))


def remove_spool(spool: Path) -> None:
    """Removes the buckets of a shuffle, which hold keys."""
    with suppress(FileNotFoundError):
        shutil.rmtree(spool)


def fresh(release: Path) -> Path:
    """Makes an empty folder beside the release's place, and removes what an earlier attempt left."""
    staged = staging(release)
    for left in (release, staged):
        remove(left)
    staged.mkdir(parents=True)
    (staged / MARK).touch()
    (staged / DATA).mkdir()
    return staged
