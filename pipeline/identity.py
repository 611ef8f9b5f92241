"""Hashes of what decides the bytes that a job writes, so that jobs can be compared; and the secret salt."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PUBLIC_SALT = b"doppel: no secret salt was given"
"""The salt of jobs without a secret: everybody knows it."""
SALT_VARIABLE, SHORTEST_SALT = "DOPPEL_SALT", 16
"""The environment variable of the salt, and its smallest length in bytes."""


def hash_files(files: Iterable[str | None]) -> str:
    """sha256, in hexadecimal, over the contents of files in their order; empty where there are none."""
    contents = [Path(file).expanduser().read_bytes() for file in files if file]
    return hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in contents)).hexdigest() if contents else ""


def read_salt(file: str | None) -> bytes:
    """The secret of `run.salt_file` or `$DOPPEL_SALT`; without one, a public constant that is repeatable, not secret.

    Raises `UserError` for a secret that is too short, or cannot be read.
    """
    return given_salt(file, "run.salt_file") or PUBLIC_SALT


def given_salt(file: str | None, option: str) -> bytes | None:
    """The secret of a file that `option` names, or of `$DOPPEL_SALT`; None where there is neither.

    Raises `UserError` for a secret that is too short, or cannot be read.
    """
    if file is not None:
        try:
            salt, source = Path(file).expanduser().read_bytes().strip(), option
        except OSError as error:
            raise UserError(f"{option}: cannot read {file!r} ({error.strerror})") from None
    elif SALT_VARIABLE in os.environ:
        salt, source = os.environb[SALT_VARIABLE.encode()], f"${SALT_VARIABLE}"
    else:
        return None
    if len(salt) < SHORTEST_SALT:
        raise UserError(f"{source} holds {len(salt)} bytes; at least {SHORTEST_SALT} are needed")
    return salt


def salt_check(salt: bytes) -> str:
    """32 bits, in hexadecimal, that tell two salts apart without giving either away: they are slow to guess from."""
    return hashlib.scrypt(salt, salt=b"doppel salt check", n=2**14, r=8, p=1, dklen=4).hex()


def hash_json(value: Any) -> str:
    """sha256, in hexadecimal, of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
