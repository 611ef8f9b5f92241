"""The one complete plan of a job: what must stay the same for its outputs to stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.identity import code_hash, hash_files, hash_json, read_salt, salt_check
from pipeline.job.clips import check_clips
from pipeline.job.config import JobConfig
from pipeline.job.extras import file_guide, file_mask
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.models.folder import find_model, hash_model
from pipeline.models.licence import Licence, read_licence
from pipeline.operators.on_cascades import check


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A configuration with everything that must stay the same for its outputs to stay the same."""

    config: JobConfig
    salt: bytes
    hashes: dict[str, str]
    licences: dict[str, Licence]
    """Of each model's weights, by its path."""
    gate: dict[str, Any] | None = None
    """What the gate judges by, where the recipe asks for one."""
    fitted: int | None = None
    """The batch size that was found, where the recipe's is auto."""

    @property
    def batch_size(self) -> int:
        """Of a job with a model."""
        size = self.config.model.batch_size if self.config.model else 1
        if isinstance(size, str):
            size = self.fitted or 0
        if not size:
            raise RuntimeError("the batch size was not found yet: see engines.local.fitted")
        return size

    @property
    def code(self) -> str:
        """Version and source hash, for people."""
        return f"{__version__}+{self.hashes['code'][:12]}"

    def __repr__(self) -> str:  # the salt must not reach a log by accident
        return f"Job({self.config.output.path!r})"


def make_plan(config: JobConfig) -> Plan:
    """Reads salt and model, checks that all fits together, hashes configuration, model and code.

    Raises `UserError` for all that can be known to be wrong before work starts.
    """
    salt = read_salt(config.run.salt_file)
    model, second = (sketch_model(c) if c else None for c in (config.model, config.second_model))
    if model and config.operator:
        check(config.operator, model, second)
        check_clips(config, model, second)
        for condition, section in (("own", "caption"), ("edited", "edited")):
            if config.wants(model, "text", condition) and getattr(config, section) is None:
                advice = f"give the recipe a section {section}, or the operator a prompt"
                raise UserError(f"condition {condition}: the model takes prompts; {advice}")
        if config.mask and config.mask.file:
            file_mask(config.mask.file, model.size)
        if config.guide and config.guide.file:
            file_guide(config.guide.file, model.size, config.image.fit)
    hashes = {
        "config": hash_json({k: v for k, v in identity(config).items() if k not in ("input", "limit")}),
        "model": model.hash if model else "",
        "second_model": second.hash if second else "",
        "judge": hash_model(find_model(ModelConfig(**config.judge.model_dump()))) if config.judge else "",
        "files": hash_files(section.file for section in (config.mask, config.guide) if section),
        "code": code_hash(),
        "salt": salt_check(salt),
    }
    folders = {path: find_model(ModelConfig(path=path, revision=revision)) for path, revision in weights(config)}
    licences = {path: read_licence(folder) for path, folder in folders.items()}
    return Plan(config=config, salt=salt, hashes=hashes, licences=licences)


def weights(config: JobConfig) -> Iterator[tuple[str, str | None]]:
    """Path and revision of all weights that a job loads."""
    for model in (config.model, config.second_model):
        if model is not None:
            yield model.path, model.revision
            yield from ((upscaler.path, upscaler.revision) for upscaler in model.upscalers)
    if config.judge is not None:
        yield config.judge.path, config.judge.revision


def identity(config: JobConfig) -> dict[str, Any]:
    """The part of a configuration that decides the bytes, without places: the model is told by its hash.

    The hash in the provenance leaves out the input too: the same shard gives the same bytes wherever it lies.
    """
    files: Any = {"__all__": {"path"}}
    model_place = {
        "path": True, "revision": True, "local_files_only": True, "lora": files, "textual_inversion": files,
        "upscalers": {"__all__": {"path", "revision"}},
    }  # fmt: skip
    places: Any = {
        "kind": True, "run": True, "output": {"path"}, "model": model_place, "second_model": model_place,
        "mask": {"file"}, "guide": {"file"}, "judge": {"path", "revision"},
        "anonymity": {"certificates", "workers"}, "release": True,
    }  # fmt: skip
    return config.model_dump(mode="json", exclude=places)
