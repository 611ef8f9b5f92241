"""Salts are judged by what can be guessed of them, and never shown."""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import BAD_INPUT, main
from pipeline.errors import UserError
from pipeline.identity import LEAST_BITS, PUBLIC_SALT, SHORTEST_SALT, bits_of, given_salt, read_salt
from pipeline.release.config import secret_of

WEAK = [
    b"0" * 16, b"0" * 1000, bytes(32), b"a" * 15 + b"b", b"passwordpassword", b"PasswordPASSWORD",
    b"Password-Password",
    b"password12345678", b"passworddrowssap", b"0123456789abcdef", b"0123456789abcdef" * 2, b"fedcba9876543210",
    string.ascii_letters.encode(), b"qwertyuiopasdfgh", b"QWERTYUIOPASDFGHJKL", b"poiuytrewqlkjhgf",
    b"1234567812345678",
    b"123456789012345678901234567890", b"11112222333344445555", b"02468ace13579bdf", b"abababbbaabbaabb",
    b"abcabcabcabcabcabc", b"hunter2hunter2hunter2", b"changemechangeme", b"2026-11-27 2026-11-27", bytes(range(64)),
    bytes(range(0, 256, 2)), b"\x00\xff" * 16, b"asdfasdfasdfasdfasdf", b"................!",
    b"00000000-0000-0000-0000-0001",
]  # fmt: skip
MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "16 random bytes": lambda rng: rng.randbytes(16),
    "32 random bytes": lambda rng: rng.randbytes(32),
    "openssl rand -hex 16": lambda rng: rng.randbytes(16).hex().encode(),
    "hex in capitals": lambda rng: rng.randbytes(16).hex().upper().encode(),
    "openssl rand -base64 16": lambda rng: base64.b64encode(rng.randbytes(16)),
    "token_urlsafe": lambda rng: base64.urlsafe_b64encode(rng.randbytes(16)).rstrip(b"="),
    "uuid4": lambda rng: str(uuid.UUID(bytes=rng.randbytes(16), version=4)).encode(),
}


@pytest.mark.parametrize("name", MAKERS)
def test_random_salts_always_pass(name: str) -> None:
    rng = random.Random(name)
    assert min(bits_of(MAKERS[name](rng)) for _ in range(10_000)) >= LEAST_BITS


@pytest.mark.parametrize("salt", WEAK, ids=lambda salt: repr(salt)[:24])
def test_what_is_easily_guessed_is_refused_and_not_shown(
    salt: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(salt) >= SHORTEST_SALT
    (tmp_path / "salt").write_bytes(salt)
    with pytest.raises(UserError, match=r"^salt_file holds what is easily guessed .* openssl rand -hex 16"):
        given_salt(str(tmp_path / "salt"), "salt_file")
    with pytest.raises(UserError, match=r"^release: the salt holds what is easily guessed"):
        secret_of(salt)
    assert main(["run", "demo", "--dry-run", "--set", f"run.salt_file={tmp_path / 'salt'}"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert salt.decode("latin-1") not in said
    if b"\0" not in salt:
        monkeypatch.setenv("DOPPEL_SALT", salt.decode("latin-1"))
        with pytest.raises(UserError, match=r"^\$DOPPEL_SALT holds what is easily guessed"):
            read_salt(None)


def test_passphrases_of_several_words_pass(tmp_path: Path) -> None:
    for salt in (b"correct horse battery staple", b"the secret of these tests", "größe höhe übermäßig".encode()):
        (tmp_path / "salt").write_bytes(salt + b"\n")
        assert read_salt(str(tmp_path / "salt")) == salt


def test_what_never_ends_is_no_salt() -> None:
    with pytest.raises(UserError, match="salt_file holds more than 65536 bytes"):
        given_salt("/dev/zero", "salt_file")


def test_without_a_secret_there_is_the_public_salt() -> None:
    assert read_salt(None) == PUBLIC_SALT
    with pytest.raises(UserError, match="release needs a secret salt"):
        secret_of(PUBLIC_SALT)


@given(st.binary(max_size=200), st.integers(2, 5))
def test_repeating_a_salt_makes_it_hardly_better(salt: bytes, times: int) -> None:
    assert bits_of(salt * times) <= bits_of(salt) + 8 * (1 + 2 * (len(salt) < 8) * times)


@given(st.binary(max_size=3000))
def test_any_bytes_have_an_estimate_in_their_bounds(salt: bytes) -> None:
    assert 0 <= bits_of(salt) <= 8 * len(salt)
