"""What decides the bytes that a job writes: configuration, files, code and salt, as hashes that can be compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PUBLIC_SALT = b"doppel: no secret salt was given"
SALT_VARIABLE, SHORTEST_SALT = "DOPPEL_SALT", 16


def hash_files(files: Iterable[str | None]) -> str:
    contents = [Path(file).expanduser().read_bytes() for file in files if file]
    return hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in contents)).hexdigest() if contents else ""


def read_salt(file: str | None) -> bytes:
    """The secret of `run.salt_file` or `$DOPPEL_SALT`; without one, a public constant: repeatable, not secret."""
    return given_salt(file, "run.salt_file") or PUBLIC_SALT


def given_salt(file: str | None, option: str) -> bytes | None:
    """The secret of a file that an option names, or of `$DOPPEL_SALT`. Raises `UserError` for one that is too short."""
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
    """Tells two salts apart without giving either away: slow to guess from, 32 bits."""
    return hashlib.scrypt(salt, salt=b"doppel salt check", n=2**14, r=8, p=1, dklen=4).hex()


def hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
