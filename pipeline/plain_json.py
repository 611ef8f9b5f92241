"""JSON files that an earlier run or somebody else has written: damage is one sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


def read_json_file(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError`, which names the file, where it cannot be read or holds none."""
    try:
        return parse_json_object(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None


def parse_json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises `UserError`, one sentence that begins with `where`, for anything else."""
    if not text.strip():
        raise UserError(f"{where} is not valid JSON: it is empty")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: a JSON object is expected, found {type(content).__name__}")
    return content
