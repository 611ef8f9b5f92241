"""RELEASE.json is written last and says what the release is made of, so that anybody with the folder can verify it.

RELEASE/RELEASE.json   every file with its sha256, counts, how it was made and verified, threat models
RELEASE/README.md      the same for people
RELEASE/data/*.tar     the images
RELEASE.part/          a release in the making, beside it; nobody should read there
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.listing import below, real
from pipeline.media.output_keys import Shape
from pipeline.media.versioned import Versioned
from pipeline.release.copies import FaceScan, NearCopyScan
from pipeline.release.evidence import ReleaseEvidence
from pipeline.release.privacy import derive, seal_key
from pipeline.section import Section
from pipeline.streams.files import content_hash, sync_folder

SEAL, CARD, DATA = "RELEASE.json", "README.md", "data"
"""The files and the folder of a release."""
MARK = f"{SEAL}.part"
"""The file in a folder that is ours and is no release yet."""
FILE_NAME = re.compile(rf"{CARD}|{DATA}/release-[0-9]{{5,}}\.tar")
"""The names of files that a release may have, besides RELEASE.json."""


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


class Scans(Section):
    """The searches for copies among the released images, and how close the closest came."""

    faces: dict[str, FaceScan]
    """Searches for copied faces, by recogniser."""
    near_copies: NearCopyScan
    """The search for copied images."""


class ReleaseManifest(Versioned):
    """RELEASE.json. It has no names, keys, places or times, so that the same job gives the same bytes."""

    version: int = 3
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
    evidence: ReleaseEvidence | None = None
    """What the audit found; None only until it is done."""
    code: str
    """doppel's version and the beginning of the code's hash."""
    hmac: str = ""
    """HMAC-SHA256 of all the rest with a key that only those with the salt have, so that nobody else can change facts,
    counts or files and compute the rest anew; see `authenticated`."""
    digest: str = ""
    """sha256 of all the rest, so that no byte can change unseen; see `text_of`."""


def staging(release: Path) -> Path:
    """The folder in which a release is put together: on the same file system, out of sight of its readers."""
    return release.with_name(f"{release.name}.part")


def is_ours(folder: Path) -> bool:
    """Whether `folder` may be replaced: it is absent, empty, or left by an attempt that was never sealed."""
    if not folder.is_dir():
        return not folder.exists()
    return not any(folder.iterdir()) or ((folder / MARK).is_file() and not (folder / SEAL).exists())


def remove(folder: Path) -> None:
    """Removes an unfinished attempt. Raises `UserError` where the folder holds anything else."""
    if not is_ours(folder):
        raise UserError(f"release.path: {folder} is not empty and no unfinished release; name an empty folder")
    if folder.exists():
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MARK):  # the mark last: it says that we may
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


def text_of(manifest: ReleaseManifest) -> str:
    """The text of RELEASE.json, with its digest."""
    body = manifest.model_dump(mode="json", exclude={"digest"})
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}, sort_keys=True, indent=1) + "\n"


def authenticated(manifest: ReleaseManifest, secret: bytes) -> ReleaseManifest:
    """The manifest with its HMAC; `secret` is what `derive` makes of the salt."""
    body = manifest.model_dump(mode="json", exclude={"hmac", "digest"})
    code = hmac.new(seal_key(secret), json.dumps(body, sort_keys=True).encode(), hashlib.sha256).hexdigest()
    return manifest.model_copy(update={"hmac": code})


def read_seal(release: Path) -> ReleaseManifest:
    """Reads RELEASE.json; whether it is as it was written is for `verify` to say.

    Raises `UserError` where there is none to read.
    """
    try:
        text = (release / SEAL).read_bytes()
    except OSError as error:
        raise UserError(f"{SEAL} cannot be read ({error.strerror}): this is not a finished release") from None
    return ReleaseManifest.from_json(text, SEAL)


def seal(release: Path, manifest: ReleaseManifest) -> None:
    """Moves what was published into place, and writes RELEASE.json last.

    A sealed release of the same job stays as it is. Raises `UserError` where the files are not as the manifest lists
    them, or the folder is in use.
    """
    release = real(release)
    staged, text = staging(release), text_of(manifest)
    if (release / SEAL).exists():
        _check_same(release, text)
        return
    if problems := differing(staged, manifest, MARK):
        raise UserError(f"release.path: {staged} is not as it was published: {'; '.join(problems[:5])}")
    with open(staged / MARK, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(staged)
    remove(release)
    os.replace(staged, release)
    sync_folder(release.parent)
    os.replace(release / MARK, release / SEAL)
    sync_folder(release)


def verify(release: Path, salt: bytes | None = None) -> list[str]:
    """Everything that is wrong with a release, one sentence each; empty where it is sound.

    It looks for an altered RELEASE.json, and for files that are missing, extra or altered. With the salt of the job it
    also tells whether RELEASE.json was changed and computed anew; without, nobody can.
    """
    try:
        manifest = read_seal(release)
    except UserError as error:
        return [str(error)]
    same = text_of(manifest).encode() == (release / SEAL).read_bytes()
    altered = [] if same else [f"{SEAL} was altered: its own digest differs"]
    if salt is not None and not hmac.compare_digest(authenticated(manifest, derive(salt)).hmac, manifest.hmac):
        altered.append(f"{SEAL} is not authentic: it was changed and computed anew, or belongs to another salt")
    return altered + differing(release, manifest, SEAL)


def differing(folder: Path, manifest: ReleaseManifest, besides: str) -> list[str]:
    """How the files in `folder` differ from the manifest's list and the file `besides`, one sentence each.

    Links are never followed.
    """
    strange = [name for name in manifest.files if not FILE_NAME.fullmatch(name)]
    if strange:
        return [f"{SEAL} lists {len(strange)} files that no release has"]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(below(folder))}
    extra = [f"{name} is not listed" for name in found if name not in (*manifest.files, DATA, besides)]
    extra += [
        f"{DATA} is not a folder" for path in [found.get(DATA)] if path and (path.is_symlink() or not path.is_dir())
    ]
    return extra + [
        f"{name} {problem}"
        for name, listed in sorted(manifest.files.items())
        if (problem := _problem(found.get(name), listed))
    ]


def _problem(path: Path | None, listed: ListedFile) -> str | None:
    if path is None:
        return "is missing"
    if path.is_symlink() or not path.is_file():
        return "is not a regular file"
    if path.stat().st_size != listed.bytes:
        return f"was altered: {path.stat().st_size} bytes, {listed.bytes} are listed"
    return "was altered: its sha256 differs" if content_hash(str(path)) != listed.sha256 else None


def _check_same(release: Path, text: str) -> None:
    if problems := verify(release):
        raise UserError(f"release.path: {release} is no longer as it was sealed: {'; '.join(problems[:5])}")
    if (release / SEAL).read_text() != text:
        raise UserError(f"release.path: {release} holds a release of another job; name an empty folder")
