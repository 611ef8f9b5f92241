"""Where a model lives on disk: resolving a path, an embedded name or a hub id, reading and hashing what is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.assets import PREFIX, resolve
from pipeline.errors import UserError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HASHED = (".json", ".safetensors", ".txt")


def find_model(path: str, revision: str | None = None) -> Path:
    """A local folder, `embedded:NAME`, or a hub id `owner/name` (safetensors, JSON and text files only).

    Raises `UserError` where there is no such model, or only pickled weights.
    """
    folder = Path(resolve(path))
    if not folder.is_dir():
        if path.count("/") != 1 or path.startswith((".", "/", "~", PREFIX)):
            raise UserError(f"model.path: {path!r} is no folder (a diffusers model folder, embedded:NAME or a hub id)")
        folder = _from_hub(path, revision)
    if not any(folder.rglob("*.safetensors")):
        pickled = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in PICKLED)
        held = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise UserError(f"model.path: {path!r} holds {held}; only .safetensors are loaded")
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """Raises `UserError` where a file of a model folder is missing or holds no JSON object."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file} is missing: the folder is no complete diffusers model") from None
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: a JSON object is expected, found {str(content)[:40]!r}")
    return content


def hash_model(folder: Path) -> str:
    """sha256 over names and contents of weights and configurations; cards and pictures do not count."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.suffix in HASHED and p.is_file()):
        with open(file, "rb") as handle:
            content = hashlib.file_digest(handle, "sha256").digest()
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + content)
    return digest.hexdigest()


def _from_hub(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.md"]
    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=wanted)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model.path: {repository!r} is no local folder, and the hub did not give it ({why}); "
            "download it elsewhere and name the folder"
        ) from None
    return Path(found)
