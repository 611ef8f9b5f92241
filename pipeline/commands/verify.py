"""`doppel verify`: is a release as it was made, whose is it, and what is proven by that and what not. In one screen."""

from __future__ import annotations

import hashlib
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import UserError
from pipeline.release.assessment import NOT_STATED, Assessment, expired
from pipeline.release.evidence_page import statements
from pipeline.release.manifest import SEAL, ReleaseManifest
from pipeline.release.sealing import checks, read_seal
from pipeline.release.signing import public_hex
from pipeline.section import local_option
from pipeline.streams.copying import copy_down
from pipeline.streams.places import is_remote, open_store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SHOWN = 5
"""Problems of one kind that are shown."""
WIDEST = 240
"""Characters of a line that are shown."""


class Verified(NamedTuple):
    """What came of a verification."""

    problems: list[str]
    """Everything that is wrong, one sentence each; empty where the release is sound."""
    screen: str
    """What was checked, what is proven and what not, to be printed."""


def release_at(place: str) -> Path:
    """The folder of a release at a path, or at the URL of an object store, from where it is copied to this machine.

    Raises `UserError` for what is neither, and for an object whose name leads out of its folder.
    """
    if not is_remote(place):
        return local_option(place, "RELEASE")
    store = open_store(place)
    folder = store.parts / "release"
    folder.mkdir()
    copy_down(store, folder)
    return folder


def verify_release(
    release: Path,
    *,
    shown: str | None = None,
    key: Ed25519PublicKey | None = None,
    sha256: str | None = None,
    salt: bytes | None = None,
    today: date,
) -> Verified:
    """Verifies a release by the publisher's public key, the sha256 of RELEASE.json, the job's salt, or several of them.

    It is called `shown`, by default its path. Raises `UserError` where no key, sha256 or salt is given, because nothing
    would tell then whose the release is.
    """
    if key is None and sha256 is None and salt is None:
        raise UserError(
            f"verify needs --key PUB, --sha256 HEX or --salt-file FILE: without one, nobody can tell who made {SEAL}"
        )
    found = checks(release, salt, key)
    if sha256 is not None:
        found["sha256"] = _other_sha256(release, sha256)
    try:
        manifest = read_seal(release)
    except UserError:
        manifest = None
    if manifest is not None:
        found["dates"] = [why for why in [expired(manifest.assessment, today)] if why]
    problems = [problem for those in found.values() for problem in those]
    head = f"{shown or release}: {'NOT SOUND' if problems else 'sound'}"
    done = [line for name, those in found.items() for line in _check(name, those, _meaning(name, manifest, key))]
    lines = [head, *done, *([] if problems or manifest is None else _proof(manifest, today, key is not None))]
    return Verified(problems, "\n".join(map(_printable, lines)))


def _check(name: str, problems: list[str], meaning: str) -> list[str]:
    if not problems:
        return [f"  ok      {name}: {meaning}"]
    more = [f"  FAILED  {name}: and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return [f"  FAILED  {name}: {problem}" for problem in problems[:SHOWN]] + more


def _meaning(name: str, manifest: ReleaseManifest | None, key: Ed25519PublicKey | None) -> str:
    """What it means that a check has found nothing."""
    signer = public_hex(key) if key else ""
    listed = len(manifest.files) if manifest else 0
    return {
        SEAL: "no byte differs from what its own digest says",
        "signature": f"Ed25519, by the holder of the key given, {signer}",
        "sha256": f"{SEAL} is the one that you were told of",
        "HMAC": f"{SEAL} was written by whoever has the salt",
        "files": f"{listed} have the sha256 that is listed; none is missing, none is extra",
        "dates": "the assessment has not expired" if _expires(manifest) else "no day of expiry is stated",
    }[name]


def _expires(manifest: ReleaseManifest | None) -> bool:
    return bool(manifest and manifest.assessment and manifest.assessment.expires)


def _other_sha256(release: Path, sha256: str) -> list[str]:
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", sha256):
        raise UserError("--sha256: 64 hexadecimal digits are expected, as sha256sum prints them")
    try:
        found = hashlib.sha256((release / SEAL).read_bytes()).hexdigest()
    except OSError:
        return [f"{SEAL} cannot be read"]
    return [] if found == sha256.lower() else [f"{SEAL} has another sha256, {found}"]


def _proof(manifest: ReleaseManifest, today: date, by_key: bool) -> list[str]:
    counts, told = manifest.counts, manifest.assessment or Assessment()
    who = "whoever holds that key" if by_key else "whoever wrote that file"
    people = NOT_STATED if counts.people is None else counts.people
    smallest = min(counts.holders.values(), default="no labels")
    signed = f"{told.sign_off.name}, {told.sign_off.role}, {told.sign_off.day}" if told.sign_off else NOT_STATED
    overdue = " (OVERDUE)" if told.review_by and told.review_by < today else ""
    return [
        f"proven: these are, to the byte, the images, figures and documents that {who} published",
        "stated there, and not proven by this command:",
        f"  {counts.released} images of {counts.read} photographs, {sum(counts.quarantined.values())} withheld",
        f"  known people: {people}; smallest group of a label: {smallest}",
        *(f"  {line}" for line in statements(manifest)),
        f"  signed off by: {signed}; to be reviewed by: {told.review_by or NOT_STATED}{overdue}",
        "not proven:",
        f"  who {who.removeprefix('whoever ')}: that is for you to know, from elsewhere",
        "  that the figures are true: with the originals, doppel audit makes them again",
        "  T1 against a recogniser that nobody has tried, or by people who know somebody well",
        "  T2, an attacker who holds the very source photograph: NOT SOLVED",
    ]


def _printable(line: str) -> str:
    """A line without what could steer a terminal: names of files may be a stranger's."""
    line = "".join(sign if sign.isprintable() else "?" for sign in line)
    return line if len(line) <= WIDEST else f"{line[:WIDEST]}…"
