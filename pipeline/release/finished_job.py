"""What a finished job left behind: where each image and its members lie in its tars, and why others are missing."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.errors import UserError
from pipeline.media.output_keys import OutputKey
from pipeline.media.provenance import PROVENANCE, Provenance
from pipeline.media.records import full_key
from pipeline.streams.files import content_hash
from pipeline.streams.job_records import Job
from pipeline.streams.labels import member_label
from pipeline.streams.ledger import Ledger
from pipeline.streams.names import unescape_dots
from pipeline.streams.quarantine import read_quarantine
from pipeline.streams.reasons import OF_THE_GATE

LABEL = "cls"
"""The member that holds a label."""
RELEASED = ("anonymous", "undecided")
"""Verdicts with which an image may be released. Undecided ones are in a job's output only where `anonymity.undecided`
lets them pass, and are counted."""


class Span(NamedTuple):
    """The place of some bytes in a tar."""

    offset: int
    size: int


class MadeImage(NamedTuple):
    """The place of one image of the job, and what is known of it."""

    key: str
    """Full key of the image: what the job calls it, in the shard of its original."""
    source: str
    """Full key of the original that it was made from."""
    source_key: str
    """The key of that original in its shard."""
    tar: Path
    image_ext: str
    image: Span
    members: Mapping[str, Span]
    """The members that may be published, by extension."""
    label: int | None
    level: str
    """The level that it started from, as a fraction of T in tenths; `none` where its operator has no level."""
    verdict: str
    """The gate's verdict."""
    sigma: float | None
    """The level that it started from, as σ; None where its operator has no level."""
    attempt: int
    """The round that passed: 0 is the operator's own level, 1 the first of the ladder."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """The folder of a finished job."""

    job: Job
    tars: Mapping[Path, str]
    """The sha256 of each of its tars."""
    read: int
    """How many samples the job read."""
    quarantined: Mapping[str, int]
    """How many samples were withheld, by reason."""

    @classmethod
    def by(cls, root: Path) -> Made:
        """Reads the folder of a job.

        Raises `UserError` for a job that isn't finished, or files that are not those it wrote.
        """
        ledger = Ledger(root)
        job, manifest = ledger.job(), ledger.manifest()
        if job is None or manifest is None:
            raise UserError(f"{root} holds no finished job, and a release is made of a finished job")
        if not manifest.complete:
            done = manifest.shards
            raise UserError(f"{root}: {done.finished} of {done.total} shards are done; finish the job first")
        if (stale := manifest.stale()) is not None:
            raise UserError(f"{root}: {stale}")
        records = ledger.records()
        if others := sum(record.hashes != job.hashes for record in records):
            raise UserError(
                f"{root}: {others} shards were kept from a job with other settings; start anew, --overwrite"
            )
        files = {root / name: stored.sha256 for record in records for name, stored in record.files.items()}
        for file, digest in files.items():
            if not file.is_file() or content_hash(str(file)) != digest:
                raise UserError(
                    f"{file} is missing, or not as the job wrote it; remove its record in shards/, run again"
                )
        return cls(
            job=job,
            tars={file: digest for file, digest in files.items() if file.parent == root / "data"},
            read=manifest.counts.read,
            quarantined=_reasons(file for file in files if file.parent == root / "quarantine"),
        )

    def entries(self, members: Collection[str]) -> Iterator[MadeImage]:
        """Yields every image in turn, with the `members` of these extensions.

        Raises `UserError` for a member that belongs to no image, and for an image without a verdict.
        """
        for tar in self.tars:
            yield from self.entries_of(tar, members)

    def entries_of(self, tar: Path, members: Collection[str]) -> Iterator[MadeImage]:
        """Yields the images of one of the tars; see `entries`."""
        with open(tar, "rb") as file:
            for key, spans in grouped(tar):
                yield self._entry(key if self.verbatim else unescape_dots(key), spans, members, tar, file)

    def _entry(
        self, key: str, spans: Mapping[str, Span], members: Collection[str], tar: Path, file: BinaryIO
    ) -> MadeImage:
        made = Provenance.from_json(read(file, spans[PROVENANCE]), f"{tar}: a member {PROVENANCE}")
        if made.key != self._parsed(key):
            raise UserError(f"{tar}: an image lies under another key than its provenance says; nothing was released")
        judged = made.anonymity
        if judged is None or judged.verdict not in RELEASED:
            verdict = judged and judged.verdict
            raise UserError(f"{tar}: an image has the verdict {verdict} of the gate, and may not be released")
        label = self.job.config["input"].get("label", LABEL) if self.verbatim else LABEL
        labelled = {e: read(file, spans[e]) for e in [label.partition(":")[0]] if e in spans}
        image_ext = next(iter(spans))  # the writer puts it first
        return MadeImage(
            key=full_key(made.shard, key),
            source=full_key(made.shard, made.key.source),
            source_key=made.key.source,
            tar=tar,
            image_ext=image_ext,
            image=spans[image_ext],
            members={e: span for e, span in spans.items() if e in members},
            label=member_label(labelled, label, self.job.config["input"].get("label_names")).number,
            level=_level(made),
            verdict=judged.verdict,
            sigma=made.level.get("sigma") if made.level else None,
            attempt=judged.attempt,
        )

    def _parsed(self, key: str) -> OutputKey | None:
        try:
            return OutputKey.parse(key, self.job.outputs)
        except ValueError:
            return None

    @property
    def verbatim(self) -> bool:
        """Whether keys are in the tar just as they were in the source's tar."""
        return bool(self.job.config["input"]["format"] == "webdataset")


def grouped(tar: Path) -> Iterator[tuple[str, dict[str, Span]]]:
    """Yields (key, the places of its members) for each sample of one of our own tars.

    Each sample has one member KEY.doppel.json, so that keys are known whatever rule the names in their source followed.
    """
    with tarfile.open(tar, "r:") as archive:
        spans = {info.name: Span(info.offset_data, info.size) for info in archive}
    keys = {name.removesuffix(f".{PROVENANCE}") for name in spans if name.endswith(f".{PROVENANCE}")}
    samples: dict[str, dict[str, Span]] = {}
    for name, span in spans.items():
        parts = name.split(".")
        cut = next((i for i in range(len(parts) - 1, 0, -1) if ".".join(parts[:i]) in keys), None)
        if cut is None:
            raise UserError(f"{tar}: a member belongs to no image that doppel made; a release takes a job's own output")
        samples.setdefault(".".join(parts[:cut]), {})[".".join(parts[cut:])] = span
    yield from samples.items()


def read(file: BinaryIO, span: Span) -> bytes:
    """The bytes of a span."""
    file.seek(span.offset)
    return file.read(span.size)


def _level(made: Provenance) -> str:
    fraction = made.level.get("fraction") if made.level else None
    return "none" if fraction is None else f"{fraction:.1f}"


def _reasons(tars: Iterator[Path]) -> dict[str, int]:
    """How many samples of the quarantine have each reason, in words that tell nothing of the sample."""
    reasons = Counter[str]()
    for tar in tars:
        for why, _ in read_quarantine(tar):
            reasons[why.reason if why.reason.startswith(OF_THE_GATE) else why.kind] += 1
    return dict(sorted(reasons.items()))
