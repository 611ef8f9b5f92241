"""RELEASE.json is written last and says what the release is made of, so that anybody with the folder can verify it.

RELEASE/RELEASE.json   every file with its sha256, counts, how it was made and verified, threat models, signature
RELEASE/README.md      the same for people
RELEASE/ASSESSMENT.md  the same for auditors
RELEASE/data/*.tar     the images
RELEASE.part/          a release in the making, beside it; nobody should read there
"""

from __future__ import annotations

import hmac
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.listing import below, real
from pipeline.release.manifest import DATA, FILE_NAME, SEAL, ListedFile, ReleaseManifest, authenticated, text_of
from pipeline.release.privacy import derive
from pipeline.release.signing import signature_problem
from pipeline.streams.files import content_hash, sync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MARK = f"{SEAL}.part"
"""The file in a folder that is ours and is no release yet."""


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


def read_seal(release: Path) -> ReleaseManifest:
    """Reads RELEASE.json; whether it is as it was written is for `verify` to say.

    Raises `UserError` where there is none to read, or only a link to one.
    """
    try:
        if not stat.S_ISREG(os.lstat(release / SEAL).st_mode):
            raise UserError(f"{SEAL} is not a regular file")
        text = (release / SEAL).read_bytes()
    except OSError as error:
        raise UserError(f"{SEAL} cannot be read ({error.strerror}): this is not a finished release") from None
    manifest = ReleaseManifest.from_json(text, SEAL)
    try:
        text_of(manifest)
    except (ValueError, RecursionError):
        raise UserError(f"{SEAL} is nested too deeply, or holds what is no text: no release says that") from None
    return manifest


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


def verify(release: Path, salt: bytes | None = None, key: Ed25519PublicKey | None = None) -> list[str]:
    """Everything that is wrong with a release, one sentence each; empty where it is sound. See `checks`."""
    return [problem for problems in checks(release, salt, key).values() for problem in problems]


def checks(release: Path, salt: bytes | None = None, key: Ed25519PublicKey | None = None) -> dict[str, list[str]]:
    """What was checked of a release, and everything that is wrong with it, one sentence each.

    It looks for an altered RELEASE.json, and for files that are missing, extra or altered. With the salt of the job
    (`HMAC`), or with the public key of whoever should have signed it (`signature`), it also tells whether RELEASE.json
    was changed and computed anew; without, nobody can.
    """
    try:
        manifest = read_seal(release)
    except UserError as error:
        return {SEAL: [str(error)]}
    same = text_of(manifest).encode() == (release / SEAL).read_bytes()
    found = {SEAL: [] if same else [f"{SEAL} was altered: its own digest differs"]}
    if salt is not None:
        forged = f"{SEAL} is not authentic: it was changed and computed anew, or belongs to another salt"
        found["HMAC"] = [] if _authentic(manifest, salt) else [forged]
    if key is not None:
        found["signature"] = [problem for problem in [signature_problem(manifest, key)] if problem]
    try:
        return {**found, "files": differing(release, manifest, SEAL)}
    except UserError as error:  # a folder that cannot be listed
        return {**found, "files": [str(error)]}


def _authentic(manifest: ReleaseManifest, salt: bytes) -> bool:
    return hmac.compare_digest(authenticated(manifest, derive(salt)).hmac.encode(), manifest.hmac.encode())


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
    try:
        if path.stat().st_size != listed.bytes:
            return f"was altered: {path.stat().st_size} bytes, {listed.bytes} are listed"
        return "was altered: its sha256 differs" if content_hash(str(path)) != listed.sha256 else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _check_same(release: Path, text: str) -> None:
    if problems := verify(release):
        raise UserError(f"release.path: {release} is no longer as it was sealed: {'; '.join(problems[:5])}")
    if (release / SEAL).read_text() != text:
        raise UserError(f"release.path: {release} holds a release of another job; name an empty folder")
