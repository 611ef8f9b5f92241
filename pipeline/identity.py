"""Hashes of what decides the bytes that a job writes, so that jobs can be compared; and the secret salt."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PUBLIC_SALT = b"doppel: no secret salt was given"
"""The salt of jobs without a secret: everybody knows it."""
SALT_VARIABLE, SHORTEST_SALT = "DOPPEL_SALT", 16
"""The environment variable of the salt, and its smallest length in bytes."""


LARGEST_SALT = 1 << 16
"""Bytes of a salt, at most."""
LEAST_BITS = 64
"""The entropy of a salt at least, in bits, by the generous estimate of `bits_of`."""
JUDGED = 1024
"""Bytes of a salt that are looked at."""
ROWS = b"1234567890 qwertyuiop asdfghjkl zxcvbnm azertyuiop qsdfghjklm wxcvbn qwertzuiop yxcvbnm"
ROWS += b" " + ROWS[::-1]
"""Neighbours on keyboards, in both directions."""
KINDS = (b"0123456789", b"abcdefghijklmnopqrstuvwxyz", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""The kinds of signs that a text may be drawn from, besides all others that can be printed."""


def hash_files(files: Iterable[str | None]) -> str:
    """sha256, in hexadecimal, over the contents of files in their order; empty where there are none."""
    contents = [Path(os.path.expanduser(file)).read_bytes() for file in files if file]
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
            with open(os.path.expanduser(file), "rb") as handle:
                salt, source = handle.read(LARGEST_SALT + 1).strip(), option
        except OSError as error:
            raise UserError(f"{option}: cannot read {file!r} ({error.strerror})") from None
    elif SALT_VARIABLE in os.environ:
        salt, source = os.environb[SALT_VARIABLE.encode()], f"${SALT_VARIABLE}"
    else:
        return None
    if len(salt) > LARGEST_SALT:
        raise UserError(
            f"{source} holds more than {LARGEST_SALT} bytes; a salt is a line of text, or some random bytes"
        )
    if (problem := weakness(salt)) is not None:
        raise UserError(f"{source} holds {problem}")
    return salt


def weakness(salt: bytes) -> str | None:
    """Why a salt is no secret, in words that do not show it; None where it may be one."""
    if len(salt) < SHORTEST_SALT:
        return f"{len(salt)} bytes; at least {SHORTEST_SALT} are needed, as openssl rand -hex 16 makes them"
    if bits_of(salt) < LEAST_BITS:
        return (
            "what is easily guessed (a sequence, a repetition or few different bytes); openssl rand -hex 16 makes a "
            "secret"
        )
    return None


def bits_of(salt: bytes) -> float:
    """At most so many bits of entropy, as far as a look at one salt can tell: words of a language are not recognised.

    The salt is cut into pieces: a sequence (`0000`, `2468`), neighbours on a keyboard, what came before, or else a
    single byte. Each counts for the logarithm of how many signs a byte may have been drawn from.
    """
    salt = salt[:JUDGED]
    text = salt.lower() if _printable(salt) else salt
    pieces = place = 0
    while place < len(text):
        place += max(_sequence(text, place), _repeated(text, place))
        pieces += 1
    return pieces * math.log2(max(1, _signs(salt)))


def _sequence(text: bytes, start: int) -> int:
    """The length of the sequence that begins there, 1 where there is none."""
    steps = [b - a for a, b in pairwise(text[start:])]
    even = next((i for i, step in enumerate(steps) if step != steps[0]), len(steps)) + 1
    keys = max((length for length in range(3, 12) if text[start : start + length] in ROWS), default=1)
    found = max(even, keys)
    return found if found >= 3 else 1


def _repeated(text: bytes, start: int) -> int:
    """The length of the longest piece from there on that began before, 1 where it is shorter than 3."""
    length = 2
    while start + length < len(text) and text.find(text[start : start + length + 1], 0, start + length) >= 0:
        length += 1
    return length if length >= 3 else 1


def _signs(salt: bytes) -> int:
    """How many signs a byte may have been drawn from: by the kinds and the number of those that are there."""
    found = set(salt)
    if not _printable(salt) and len(found) >= 8:
        return 256
    if found <= set(b"0123456789abcdef") or found <= set(b"0123456789ABCDEF"):
        return min(16, 2 * len(found))
    kinds = sum(len(kind) for kind in KINDS if found & set(kind))
    return min(kinds + (33 if found - set(b"".join(KINDS)) else 0), 2 * len(found))


def _printable(salt: bytes) -> bool:
    return all(32 <= byte < 127 for byte in salt)


def salt_check(salt: bytes) -> str:
    """32 bits, in hexadecimal, that tell two salts apart without giving either away: they are slow to guess from."""
    return hashlib.scrypt(salt, salt=b"doppel salt check", n=2**14, r=8, p=1, dklen=4).hex()


def hash_json(value: Any) -> str:
    """sha256, in hexadecimal, of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
