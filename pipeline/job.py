"""The configuration of a job, and the hashes that tell whether two jobs would make the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import UserError
from pipeline.models.folder import find_model, hash_model
from pipeline.models.pixel import ModelConfig
from pipeline.operators import AnyOperator
from pipeline.pixels import Codec, Fit
from pipeline.streams import AnyInput, OutputFormat

PUBLIC_SALT = b"doppel: no secret salt was given"
SALT_VARIABLE, SHORTEST_SALT = "DOPPEL_SALT", 16


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageConfig(Section):
    fit: Fit = "resize"
    """How an image of another size is brought to the model's: stretch, cut out the centre, or pad."""
    restore_size: bool = False
    """Scale the output back to the size of the source (of the part that the model saw)."""


class OutputConfig(Section):
    path: str
    format: OutputFormat = "webdataset"
    codec: Codec | Literal["auto"] = "auto"
    """`auto`: PNG below 128 pixels a side, else JPEG."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG and WebP."""


class RunConfig(Section):
    """Where and how fast; nothing here changes the bytes that are written."""

    devices: tuple[str, ...] = ("auto",)
    """`auto` takes every CUDA device, or the CPU; more than one device: one process each."""
    workers: int = Field(default=2, ge=1)
    """Threads that decode and encode, for each device."""
    salt_file: str | None = None
    """File with the secret that noise is derived from (or the variable DOPPEL_SALT); at least 16 bytes."""


class JobConfig(Section):
    """What `doppel run` reads. Without `model` and `operator` the job passes images through."""

    input: AnyInput
    model: ModelConfig | None = None
    operator: AnyOperator | None = None
    image: ImageConfig = ImageConfig()
    output: OutputConfig
    run: RunConfig = RunConfig()
    limit: int | None = Field(default=None, ge=1)
    """Only the first N samples of the stream."""

    @model_validator(mode="after")
    def _model_and_operator(self) -> JobConfig:
        if (self.model is None) != (self.operator is None):
            raise ValueError("model and operator belong together: give both, or neither to pass images through")
        return self


@dataclass(frozen=True, kw_only=True)
class Job:
    """A configuration with everything that must stay the same for its outputs to stay the same."""

    config: JobConfig
    salt: bytes
    hashes: dict[str, str]

    @property
    def code(self) -> str:
        """Version and source hash, for people."""
        return f"{version('doppel')}+{self.hashes['code'][:12]}"

    def __repr__(self) -> str:  # the salt must not reach a log by accident
        return f"Job({self.config.output.path!r})"


def make_job(config: JobConfig) -> Job:
    """Reads the salt and hashes configuration, model and code. Raises `UserError` for a bad salt or model."""
    salt = read_salt(config.run)
    hashes = {
        "config": hash_json({k: v for k, v in identity(config).items() if k not in ("input", "limit")}),
        "model": hash_model(find_model(config.model.path, config.model.revision)) if config.model else "",
        "code": code_hash(),
        "salt": salt_check(salt),
    }
    return Job(config=config, salt=salt, hashes=hashes)


def identity(config: JobConfig) -> dict[str, Any]:
    """The part of a configuration that decides the bytes, without places: the model is told by its hash.

    The hash in the provenance leaves out the input too: the same shard gives the same bytes wherever it lies.
    """
    places: Any = {"run": True, "output": {"path"}, "model": {"path", "revision"}}
    return config.model_dump(mode="json", exclude=places)


def read_salt(run: RunConfig) -> bytes:
    """The secret of `run.salt_file` or `$DOPPEL_SALT`; without one, a public constant: repeatable, not secret."""
    if run.salt_file is not None:
        try:
            salt, source = Path(run.salt_file).expanduser().read_bytes().strip(), "run.salt_file"
        except OSError as error:
            raise UserError(f"run.salt_file: cannot read {run.salt_file!r} ({error.strerror})") from None
    elif SALT_VARIABLE in os.environ:
        salt, source = os.environb[SALT_VARIABLE.encode()], f"${SALT_VARIABLE}"
    else:
        return PUBLIC_SALT
    if len(salt) < SHORTEST_SALT:
        raise UserError(f"{source} holds {len(salt)} bytes; at least {SHORTEST_SALT} are needed")
    return salt


def salt_check(salt: bytes) -> str:
    """Tells two salts apart without giving either away: slow to guess from, 32 bits."""
    return hashlib.scrypt(salt, salt=b"doppel salt check", n=2**14, r=8, p=1, dklen=4).hex()


@cache
def code_hash() -> str:
    """sha256 over the package's own sources."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
