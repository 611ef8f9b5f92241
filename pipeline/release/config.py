"""The `release:` section of a recipe, and what must hold before a job that ends in a release may start."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from pipeline.errors import UserError
from pipeline.identity import PUBLIC_SALT, SALT_VARIABLE, SHORTEST_SALT, weakness
from pipeline.listing import real
from pipeline.media.provenance import PROVENANCE
from pipeline.release.assessment import Assessment, check_dates
from pipeline.release.evidence import SAMPLE, Accepted, Require
from pipeline.release.finished_job import LABEL
from pipeline.release.manifest import SEAL
from pipeline.release.privacy import derive
from pipeline.release.sealing import is_ours, staging
from pipeline.release.signing import private_key
from pipeline.release.uploading import is_free
from pipeline.section import LocalPath, Place, Section
from pipeline.streams.places import is_remote, open_store, true_place
from pipeline.streams.shards import CLIP_EXTENSIONS, IMAGE_EXTENSIONS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class ReleaseConfig(Section):
    """Publishes a verified job; everything that isn't named here stays in the job's own folder."""

    path: Place
    """The public folder, which must be absent or empty, on a disk or in an object store."""
    audit: Place
    """The private folder with the evidence, which shows originals; likewise."""
    shard_size: int = Field(default=1000, ge=1)
    """Images in a tar."""
    members: tuple[str, ...] = ()
    """Extensions of further members to publish, byte for byte; images are never among them."""
    labels: tuple[int, ...] | None = None
    """Class numbers to publish as member `cls`; by default none. A label that fewer than 5 people hold is refused."""
    near_copy: int = Field(default=4, ge=0, lt=32)
    """The release ends where the perceptual hashes of a released image and an original differ in at most so many of 64
    bits. Among 1.1 million pairs of photographs of different people in LFW, the closest differ in 6."""
    sign: LocalPath | None = None
    """A file with an Ed25519 private key in PEM, by which RELEASE.json is signed; `doppel new-key` makes one."""
    assessment: Assessment | None = None
    """What only you can say of the release, for auditors. It is published; what is left out is "not stated"."""
    sample: int = Field(default=SAMPLE, ge=1000)
    """Beyond so many originals or released images, the audit attacks as many of both at most: all images of people that
    are drawn by a hash. Every released image is paired with its original, and compared with all, nevertheless."""
    require: Require = Require()
    """What the audit must find before the release is sealed."""
    accept: Accepted = ()
    """Findings that keep a release from being sealed, by the names that the audit prints, and that you accept
    nevertheless: `unused_family`, `unmeasured`, `T1 lbph naive`. The public card says so, with the figures."""

    @field_validator("members")
    @classmethod
    def _no_image(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        for extension in members:
            if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", extension):
                raise ValueError("an extension of a member is expected, as in txt")
            if extension.rpartition(".")[2].lower() in (*IMAGE_EXTENSIONS, *CLIP_EXTENSIONS):
                raise ValueError(f"{extension} would be an image that nobody verified")
            if extension == PROVENANCE:
                raise ValueError(f"{PROVENANCE} stays private: it says how each image was made")
            if extension == LABEL:
                raise ValueError("the labels to publish are listed in release.labels")
        return members


def check_release(config: ReleaseConfig, output_path: str, salt: bytes, salt_file: str | None = None) -> None:
    """Checks the section before a job starts. A folder that an earlier attempt of the same job left is free.

    Raises `UserError` where the salt is no secret or others may read its file, the key to sign with does not fit, the
    assessment is out of date, private folders or files lie in the public one, that one is not free, or the URL of a
    place cannot be opened.
    """
    secret_of(salt)
    signing_key(config)
    check_dates(config.assessment, date.today())
    release, output, audit = (true_place(path) for path in (config.path, output_path, config.audit))
    for what, file in (("release.sign: the key", config.sign), ("run.salt_file: the salt", salt_file)):
        if file is not None and {release, staging(release)} & set(true_place(file).parents):
            raise UserError(f"{what} lies in {config.path}, which is published; keep it elsewhere")
    if salt_file is not None and (mode := Path(salt_file).stat().st_mode & 0o077):
        who = "your group" if not mode & 0o007 else "everybody"
        raise UserError(f"run.salt_file: {salt_file} is open to {who}, and must be its owner's alone: chmod 600 it")
    for public in (release, staging(release)):
        for name, given, private in (("output.path", output_path, output), ("release.audit", config.audit, audit)):
            if public == private or public in private.parents or private in public.parents:
                where = given if is_remote(given) else private
                raise UserError(
                    f"release.path: {config.path} and {name}, {where}, lie in each other; "
                    "originals, quarantine and audit must stay outside of what is published"
                )
    _check_free(config.path, job_is_there=bool(open_store(output_path).held(["job.json"])))


def _check_free(path: str, *, job_is_there: bool) -> None:
    """Raises `UserError` where something is at the place of a release that is neither unfinished nor of this job."""
    if is_remote(path):
        store = open_store(path)
        if not (is_free(store) or (job_is_there and store.held([SEAL]))):
            raise UserError(f"release.path: {store.shown} is not empty; name a folder that is, or none")
        return
    release = real(path)
    if release.exists() and not release.is_dir():
        raise UserError(f"release.path: {path} is a file; a folder is expected")
    for folder in (release, staging(release)):
        resumed = folder == release and (folder / SEAL).is_file() and job_is_there
        if not (is_ours(folder) or resumed):
            raise UserError(f"release.path: {folder} is not empty; name a folder that is, or none")


def signing_key(config: ReleaseConfig) -> Ed25519PrivateKey | None:
    """The key that the release is signed with, None where the recipe names none. Raises `UserError` for no such key."""
    return None if config.sign is None else private_key(config.sign, "release.sign")


def secret_of(salt: bytes) -> bytes:
    """The key that release keys are hashed with, derived from the salt.

    Raises `UserError` for a salt that everybody knows, or one that is too short.
    """
    if salt == PUBLIC_SALT:
        raise UserError(
            f"release needs a secret salt of at least {SHORTEST_SALT} bytes: name run.salt_file, or set the variable "
            f"{SALT_VARIABLE}"
        )
    if (problem := weakness(salt)) is not None:
        raise UserError(f"release: the salt holds {problem}")
    return derive(salt)
