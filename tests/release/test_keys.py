"""Keys to sign with: made when asked for, and refused in a sentence where they do not fit."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.release import check_release, seal, verify
from pipeline.release.signing import new_key, private_key, public_hex, public_key
from tests.finished_job import SALT, everything, people, published, refuse_seal, released, settings_of
from tests.release.keys import ASSESSMENT, PKCS8, PUBLIC, SEED, pem


def test_keys_are_those_of_the_standard(keys: Path) -> None:
    key = private_key(str(keys / "mine"), "sign")
    assert public_hex(key.public_key()) == public_hex(public_key(str(keys / "mine.pub"), "--key")) == PUBLIC
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
        "24655141438e7a100b"
    )


def test_without_the_package_no_job_starts(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    config = settings_of(tmp_path, sign=str(keys / "mine"))
    with pytest.raises(UserError, match="the signature of a release needs the package cryptography, which comes with"):
        check_release(config, str(tmp_path / "job"), SALT)
    check_release(settings_of(tmp_path), str(tmp_path / "job"), SALT)


def bad_keys() -> dict[str, tuple[bytes, str]]:
    clear = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    mine = Ed25519PrivateKey.from_private_bytes(SEED)
    locked = mine.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    return {
        "empty": (b"", "found no PEM file"),
        "raw": (SEED, "found no PEM file"),
        "hexadecimal": (SEED.hex().encode(), "found no PEM file"),
        "encrypted": (locked, "found one that a password encrypts"),
        "RSA": (rsa.generate_private_key(65537, 2048).private_bytes(*clear), "found a private key of another kind"),
        "curve": (ec.generate_private_key(ec.SECP256R1()).private_bytes(*clear), "a private key of another kind"),
        "public": (
            mine.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "found a PEM file that holds a PUBLIC KEY",
        ),
        "short": (pem("PRIVATE KEY", PKCS8 + SEED[:31]), "found a PEM file that holds a PRIVATE KEY"),
        "torn": (pem("PRIVATE KEY", PKCS8 + SEED)[:60], "found a PEM file that holds a PRIVATE KEY"),
        "OpenSSH": (
            mine.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "found a PEM file that holds a OPENSSH PRIVATE KEY",
        ),
    }


@pytest.mark.parametrize("name", bad_keys())
def test_a_key_that_does_not_fit(name: str, tmp_path: Path) -> None:
    content, sentence = bad_keys()[name]
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match=r"^release\.sign: an Ed25519 private key in PEM") as refused:
        check_release(settings_of(tmp_path, sign=str(tmp_path / "key")), str(tmp_path / "job"), SALT)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert SEED.hex() not in str(refused.value)
    with pytest.raises(UserError, match=r"^release\.sign"):
        released(tmp_path, [people(6)], sign=str(tmp_path / "key"))
    refuse_seal(tmp_path)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda content: pem("PUBLIC KEY", content)))
def test_whatever_is_no_key_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "no-key"
    file.write_bytes(content)
    for load in (private_key, public_key):
        said = sentence_of(lambda load=load: load(str(file), "--key"))  # type: ignore[misc]
        assert said is None or re.fullmatch(r"--key: an Ed25519 (private|public) key in PEM .*, found [^\n]*", said)


def sentence_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_key_that_cannot_be_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^release\.sign: cannot read"):
        check_release(settings_of(tmp_path, sign=str(tmp_path / place)), str(tmp_path / "job"), SALT)


def test_a_key_is_never_published(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    new_key(tmp_path / "release" / "key")
    with pytest.raises(UserError, match=r"^release\.sign: the key lies in"):
        check_release(settings_of(tmp_path, sign=str(tmp_path / "release" / "key")), str(tmp_path / "job"), SALT)


def test_a_key_is_made_when_asked_for_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    previous = os.umask(0)
    try:
        assert main(["new-key", str(tmp_path / "key")]) == 0
    finally:
        os.umask(previous)
    said = capsys.readouterr().out
    key = private_key(str(tmp_path / "key"), "")
    assert public_hex(key.public_key()) == public_hex(public_key(str(tmp_path / "key.pub"), ""))
    assert public_hex(key.public_key()) in said
    assert key.private_bytes_raw().hex() not in said
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "key").read_bytes()
    (tmp_path / "second.pub").symlink_to("nowhere")
    for taken in ("key", "second"):
        assert main(["new-key", str(tmp_path / taken)]) == 2
        assert "a key is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "key").read_bytes() == before
    assert not (tmp_path / "second").exists()


def test_the_same_key_gives_the_same_bytes_and_another_is_refused(sound: Path, keys: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"sign": str(keys / "mine"), "assessment": ASSESSMENT}
    again = released(tmp_path, [people(6)], **changes)
    assert everything(again) == everything(sound)
    job = tmp_path / "job"
    seal(again, published(settings_of(tmp_path, **changes), job, people(6)))
    for sign, sentence in ((str(keys / "other"), "by another key"), (None, "names no key")):
        with pytest.raises(UserError, match=sentence):
            published(settings_of(tmp_path, **changes | {"sign": sign}), job, people(6))
    assert everything(again) == everything(sound)


def test_an_unsigned_release_does_not_become_a_signed_one_in_silence(keys: Path, tmp_path: Path) -> None:
    release = released(tmp_path, [people(6)])
    with pytest.raises(UserError, match="signed by another key, or by none"):
        published(settings_of(tmp_path, sign=str(keys / "mine")), tmp_path / "job", people(6))
    assert verify(release) == []
