"""Everything that decides the bytes that a job writes, as hashes: configuration, weights, files, code and salt."""

from __future__ import annotations

from typing import Any

from pipeline.diffusion.model import Outline
from pipeline.identity import hash_files, hash_json, salt_check
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig
from pipeline.models.folder import find_model, hash_model
from pipeline.source_code import code_hash
from pipeline.streams.remote import shown

MAKING = (
    "pipeline.streams",
    "pipeline.engine.reading",
    "pipeline.engine.transforming",
    "pipeline.engine.encoding",
)
"""The modules that make outputs, together with all that they import: shard → decode → operator → encode → shard."""
VERIFYING = ("pipeline.engine.ladder",)
"""The modules that a gate adds to these."""


def hashes(config: JobConfig, model: Outline | None, second: Outline | None, salt: bytes) -> dict[str, str]:
    """The sha256 of each part, in hexadecimal; empty where the job has no such part.

    The salt has a check that hides it. The hash of the configuration leaves out the input, because the same shard gives
    the same bytes wherever it lies.
    """
    return {
        "config": hash_json({k: v for k, v in identity(config).items() if k not in ("input", "limit")}),
        "model": model.hash if model else "",
        "second_model": second.hash if second else "",
        "judge": hash_model(find_model(ModelConfig(**config.judge.model_dump()))) if config.judge else "",
        "files": hash_files(section.file for section in (config.mask, config.guide) if section),
        "code": code_hash(*MAKING, *(VERIFYING if config.anonymity else ())),
        "salt": salt_check(salt),
    }


def identity(config: JobConfig) -> dict[str, Any]:
    """The part of a configuration that decides the bytes, without places: a model is told by its hash alone."""
    files: Any = {"__all__": {"path"}}
    model_place = {
        "path": True, "revision": True, "local_files_only": True, "lora": files, "textual_inversion": files,
        "upscalers": {"__all__": {"path", "revision"}},
    }  # fmt: skip
    places: Any = {
        "kind": True, "run": True, "on_damage": True, "labels": True, "output": {"path"}, "model": model_place,
        "second_model": model_place, "mask": {"file"}, "guide": {"file"}, "judge": {"path", "revision"},
        "anonymity": {"certificates", "workers"}, "release": True,
    }  # fmt: skip
    found = config.model_dump(mode="json", exclude=places)
    return {**found, "input": _without_secrets(found["input"])}


def _without_secrets(value: Any) -> Any:
    """A URL may hold a password or a signature, which is not to be kept, and which may expire."""
    if isinstance(value, dict):
        return {key: _without_secrets(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_secrets(part) for part in value]
    return shown(value) if isinstance(value, str) else value
