"""Where a model lives on disk: resolving a path, an embedded name or a hub id, reading and hashing what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.assets import PREFIX, resolve
from pipeline.errors import UserError
from pipeline.listing import below
from pipeline.models.config import ModelConfig
from pipeline.plain_json import read_json_file

VARIANTS = ("fp16", "bf16", "fp32", "non_ema", "ema")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HASHED = (".json", ".safetensors", ".txt", ".model")


def find_model(config: ModelConfig) -> Path:
    """Finds a local folder, `embedded:NAME`, or a hub id `owner/name` (safetensors, JSON and text files only).

    Raises `UserError` where there is no such model, or only pickled weights.
    """
    path = config.path
    folder = Path(resolve(path))
    if not folder.is_dir():
        if path.count("/") != 1 or path.startswith((".", "/", "~", PREFIX)):
            raise UserError(
                f"model.path: {path!r} is not a folder (a diffusers model folder, embedded:NAME or a hub id)"
            )
        folder = _from_hub(config)
    if not any(path.suffix == ".safetensors" for path in below(folder)):
        pickled = sorted(str(p.relative_to(folder)) for p in below(folder) if p.suffix in PICKLED)
        held = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise UserError(f"model.path: {path!r} holds {held}; only .safetensors are loaded")
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of a model folder. Raises `UserError` where it is missing or holds none."""
    if not file.exists():
        raise UserError(f"{file} is missing: the folder is not a complete diffusers model")
    return read_json_file(file)


def hash_model(folder: Path, also: Sequence[Path] = ()) -> str:
    """The sha256 over names and contents of weights and configurations; cards and pictures do not count.

    `also` names files that are loaded on top; of them the contents count.
    """
    digest = hashlib.sha256()
    for file in sorted(p for p in below(folder) if p.suffix in HASHED and p.is_file()):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + hash_file(file, file.stat().st_mtime_ns))
    for file in also:
        digest.update(b"\0also\0" + hash_file(file, file.stat().st_mtime_ns))
    return digest.hexdigest()


@cache
def hash_file(file: Path, changed: int) -> bytes:
    """The sha256 of a file that was last `changed` then: weights of many GB are read once a process."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _from_hub(config: ModelConfig) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    allowed, ignored = hub_patterns(config.variant)
    try:
        found = snapshot_download(
            config.path, revision=config.revision, allow_patterns=allowed, ignore_patterns=ignored,
            local_files_only=config.local_files_only,
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model.path: {config.path!r} is not a local folder, and the hub did not give it ({why}); put "
            "model_index.json and each component's folder (config.json, .safetensors) into one folder and name that, "
            f"or bring the download of another machine to {constants.HF_HUB_CACHE}"
        ) from None
    return Path(found)


def hub_patterns(variant: str | None) -> tuple[list[str], list[str]]:
    """What is taken of a hub repository, and what of that is not: one variant of the weights, and no checkpoints of
    other programs beside them.
    """
    words = ["*.json", "*.txt", "*.model", "*.md"]
    if variant is not None:
        return [*words, f"*.{variant}.safetensors", f"*.{variant}-*.safetensors"], []
    single = ["diffusion_pytorch_model*.safetensors", "model*.safetensors", "codec.safetensors"]
    return [*words, "*/*.safetensors", *single], [f"*.{other}*" for other in VARIANTS]
