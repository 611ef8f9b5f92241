"""The recipe of `doppel audit`; everything that can be wrong with it alone is found when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from pipeline.anonymity.faces.scanning import identity_reader
from pipeline.audit.task import Audit
from pipeline.errors import UserError
from pipeline.identity import given_salt
from pipeline.media.rules import PixelRules
from pipeline.release.evidence import SAMPLE, Accepted, Require
from pipeline.section import LocalPath, Recipe
from pipeline.streams import AnyInput, input_at


def _at(place: Any) -> Any:
    return input_at(place) if isinstance(place, str) else place


Images = Annotated[AnyInput, BeforeValidator(_at)]
"""An input, or where it lies: a folder of images, or tars by path, glob or URL."""


class AuditConfig(PixelRules, Recipe):
    """The recipe of `doppel audit`. The secret itself has no place in it."""

    kind: Literal["audit"] = "audit"
    originals: Images
    """The images that the release was made from."""
    release: LocalPath
    """The folder with RELEASE.json."""
    output: LocalPath = "audit"
    """Private folder of the evidence: it shows originals."""
    salt_file: LocalPath | None = None
    """A file with the job's secret; else the variable DOPPEL_SALT. Without it, no image is paired with its original."""
    identity: str | None = None
    """How to tell who is in an original: `json:FIELD` of a member, or `key:REGEX`, whose first group is the person."""
    others: Images | None = None
    """Images like the originals that were not in the input, for measuring membership."""
    model: str | None = None
    """The job's model, with which the attacker goes back along its ODE."""
    detector: str = "dlib"
    """Name of deepface's detector."""
    recognisers: tuple[str, ...] = ()
    """Names of recognisers that attack; by default all whose weights are there."""
    require: Require = Require()
    """What must hold; as in a release."""
    accept: Accepted = ()
    """Names of findings that may stand nevertheless; as in a release, and whatever the release has accepted."""
    networks: bool = True
    """Whether attackers also train networks on the release's pairs, and put originals through its operator. It takes
    some minutes on two CPU cores, whatever the size of the release."""
    sample: int = Field(default=SAMPLE, ge=1000)
    """Beyond so many originals or released images, as many of both at most are attacked: all images of people that are
    drawn by a hash. Every released image is paired with its original nevertheless."""
    workers: int = Field(default=2, ge=0)
    """Processes that detect faces; with 0, this process does it."""

    @field_validator("identity")
    @classmethod
    def _readable(cls, identity: str | None) -> str | None:
        try:
            identity_reader(identity)
        except UserError as error:
            raise ValueError(str(error).removeprefix("identity: ")) from None
        return identity

    def task(self) -> Audit:
        """What is to be audited, with the secret.

        Raises `UserError` where the secret cannot be read, or is too short.
        """
        return Audit(
            originals=self.originals, release=Path(self.release), out=Path(self.output),
            salt=given_salt(self.salt_file, "salt_file"), identity=self.identity, rules=self.rules, others=self.others,
            model=self.model, require=self.require, accept=self.accept, networks=self.networks,
            sample=self.sample,
        )  # fmt: skip
