"""What an audit compares, and what must hold before it may say anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.media.rules import PLAIN, PixelRules
from pipeline.optional import require_package
from pipeline.release.evidence import SAMPLE, Require
from pipeline.release.manifest import ReleaseManifest
from pipeline.release.sealing import read_seal, verify
from pipeline.streams import AnyInput


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What is compared, and how it is read."""

    originals: AnyInput
    """The images that the release was made from."""
    release: Path
    """The folder with RELEASE.json."""
    out: Path
    """Private folder of the evidence: it shows originals."""
    salt: bytes | None = field(default=None, repr=False)
    """The job's secret. Without it, nobody knows which image was made from which original."""
    identity: str | None = None
    """How to tell who is in an original: `json:FIELD` or `key:REGEX`."""
    size: tuple[int, int] | None = None
    """Height and width at which everything is compared; by default those of the first released image."""
    rules: PixelRules = PLAIN
    """How the job read the originals."""
    others: AnyInput | None = None
    """Images like the originals that were not in the input, for measuring membership."""
    model: str | None = None
    """The path of the job's model, for going back along its ODE."""
    networks: bool = True
    """Whether networks are trained on the release's pairs, and originals put through its operator."""
    unsealed: ReleaseManifest | None = None
    """What RELEASE.json will say, where a release is audited before it is sealed."""
    require: Require = field(default_factory=Require)
    """What must hold."""
    accept: tuple[str, ...] = ()
    """Names of findings that may stand nevertheless."""
    sample: int = SAMPLE
    """Beyond so many originals or released images, a sample of people is attacked."""

    @property
    def manifest(self) -> ReleaseManifest:
        """The content of RELEASE.json, as it is or will be."""
        return self.unsealed or read_seal(self.release)


def check(task: Audit) -> None:
    """Checks that the release is whole and, with the salt, authentic.

    Raises `UserError` where it is not so, where the report cannot be drawn, and where it would lie in the release.
    """
    require_package("matplotlib", "the report of an audit", extra="plots")
    if problems := verify(task.release, task.salt):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{task.release}: {problems[0]}{more}; nothing that follows from it would hold")
    release, out = (real(path) for path in (task.release, task.out))
    if release == out or release in out.parents or out in release.parents:
        raise UserError(f"{task.out}: the audit shows originals, and must lie outside the release {task.release}")
