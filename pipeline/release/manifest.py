"""What RELEASE.json says of a release, and the bytes that its digest, HMAC and signature cover."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field

from pipeline.anonymity.bound.figures import SourceBound
from pipeline.media.output_keys import Shape
from pipeline.media.versioned import Versioned
from pipeline.release.assessment import Assessment
from pipeline.release.copies import FaceScan, NearCopyScan
from pipeline.release.evidence import ReleaseEvidence
from pipeline.release.privacy import seal_key
from pipeline.section import Section

SEAL, CARD, ASSESSMENT, DATA = "RELEASE.json", "README.md", "ASSESSMENT.md", "data"
"""The files and the folder of a release."""
FILE_NAME = re.compile(rf"{CARD}|{ASSESSMENT}|{DATA}/release-[0-9]{{5,}}\.tar")
"""The names of files that a release may have, besides RELEASE.json."""

PublicKey = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
"""A public Ed25519 key, 32 bytes in hexadecimal; empty for none."""
Signature = Annotated[str, Field(pattern="^([0-9a-f]{128})?$")]
"""An Ed25519 signature, 64 bytes in hexadecimal; empty for none."""


class ListedFile(Section):
    """A file of the release."""

    sha256: str
    """The sha256 of its bytes, in hexadecimal."""
    bytes: int
    """The number of its bytes."""
    images: int
    """How many images it holds."""


class ReleaseCounts(Section):
    """How many images there are, and why others are missing."""

    read: int
    """Originals that the job read."""
    released: int
    """Images in the release."""
    quarantined: dict[str, int]
    """Originals that were withheld, by reason."""
    released_by_level: dict[str, int]
    """Released images by the level that they started from, as a fraction of T in tenths; `none` where the operator has
    no level."""
    released_by_verdict: dict[str, int]
    """Released images by the gate's verdict."""
    people: int | None
    """Known people whose photographs the released images were made from; None where nobody is known."""
    holders: dict[str, int]
    """How many people hold each published label; where nobody is known, how many images."""


class Scans(Section):
    """The searches for copies among the released images, and how close the closest came."""

    faces: dict[str, FaceScan]
    """Searches for copied faces, by recogniser."""
    near_copies: NearCopyScan
    """The search for copied images."""


class ReleaseManifest(Versioned):
    """RELEASE.json. Besides what the publisher has said, it has no names, keys, places or times: the same job gives the
    same bytes."""

    version: int = 4
    job: str
    """A keyed hash of what the release was made from, which only those with the salt can compare."""
    files: dict[str, ListedFile]
    """All files, by their paths in the release."""
    outputs: Shape
    """The outputs that the job made of each original. Whoever has these and the salt can pair every image with its
    source."""
    counts: ReleaseCounts
    members: tuple[str, ...]
    """Extensions of further members that are published."""
    labels: tuple[int, ...] | None
    """Class numbers that are published."""
    facts: dict[str, Any]
    """Operator, model and licence, gate and certificates, as the job gives them."""
    scans: Scans
    threat_models: dict[str, str]
    """What the release protects from and what not, in words."""
    bound: SourceBound | None = None
    """What the best attacker can do who holds the originals, with all that this rests on."""
    evidence: ReleaseEvidence | None = None
    """What the audit found; None only until it is done."""
    assessment: Assessment | None = None
    """What the publisher has said, as the recipe gives it."""
    code: str
    """doppel's version and the beginning of the code's hash."""
    signer: PublicKey = ""
    """The public Ed25519 key of whoever signed the release, in hexadecimal; empty where nobody did."""
    hmac: str = ""
    """HMAC-SHA256 with a key that only those with the salt have, so that nobody else can change facts, counts or files
    and compute the rest anew; see `authenticated`."""
    signature: Signature = ""
    """Ed25519 signature by `signer`'s private key, so that everybody can tell whose the release is; see `signing`."""
    digest: str = ""
    """sha256 of all the rest, so that no byte can change unseen; see `text_of`."""


def body_of(manifest: ReleaseManifest, without: Collection[str]) -> bytes:
    """The canonical bytes of a manifest without some of its fields: JSON in ASCII with sorted keys."""
    content = manifest.model_dump(mode="json", exclude=set(without))
    return json.dumps(content, sort_keys=True, allow_nan=False).encode()


def text_of(manifest: ReleaseManifest) -> str:
    """The text of RELEASE.json, with its digest."""
    body = body_of(manifest, {"digest"})
    return json.dumps({**json.loads(body), "digest": hashlib.sha256(body).hexdigest()}, sort_keys=True, indent=1) + "\n"


def authenticated(manifest: ReleaseManifest, secret: bytes) -> ReleaseManifest:
    """The manifest with its HMAC of all but signature and digest; `secret` is what `derive` makes of the salt."""
    body = body_of(manifest, {"hmac", "signature", "digest"})
    return manifest.model_copy(update={"hmac": hmac.new(seal_key(secret), body, hashlib.sha256).hexdigest()})
