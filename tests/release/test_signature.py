"""Whose a release is: what a signature covers, and forgers with keys of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.release import verify
from pipeline.release.manifest import ReleaseManifest, authenticated, body_of, text_of
from pipeline.release.privacy import derive
from pipeline.release.signing import private_key, public_hex, public_key, signed
from tests.altering import one_byte_altered
from tests.finished_job import SALT, everything
from tests.release.keys import PUBLIC, SEED


def test_the_signature_covers_all_but_itself_and_the_digest(sound: Path, keys: Path) -> None:
    """With bytes that this test makes for itself."""
    content = json.loads((sound / "RELEASE.json").read_bytes())
    digest, signature = content.pop("digest"), content.pop("signature")
    message = b"doppel release\0" + json.dumps(content, sort_keys=True).encode()
    key = public_key(str(keys / "mine.pub"), "--key")
    key.verify(bytes.fromhex(signature), message)
    with pytest.raises(InvalidSignature):
        key.verify(bytes.fromhex(signature), message.removeprefix(b"doppel release\0"))
    assert content["signer"] == PUBLIC
    assert set(content["files"]) == {
        "README.md", "ASSESSMENT.md", "data/release-00000.tar", "data/release-00001.tar",
    }  # fmt: skip
    signed_body = json.dumps({**content, "signature": signature}, sort_keys=True).encode()
    assert hashlib.sha256(signed_body).hexdigest() == digest
    assert verify(sound, SALT, key) == []
    assert SEED.hex() not in everything(sound).hex()


def test_a_signature_for_something_else_is_none_of_a_release(sound: Path, keys: Path) -> None:
    key = private_key(str(keys / "mine"), "sign")
    manifest = ReleaseManifest.from_json((sound / "RELEASE.json").read_bytes(), "")
    other = key.sign(body_of(manifest, {"signature", "digest"})).hex()
    before = (sound / "RELEASE.json").read_text()
    try:
        (sound / "RELEASE.json").write_text(text_of(manifest.model_copy(update={"signature": other})))
        assert verify(sound, None, key.public_key()) == [
            "RELEASE.json is not authentic: its signature does not fit what it says"
        ]
    finally:
        (sound / "RELEASE.json").write_text(before)


def drop_signature(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"signature": ""})


def drop_signer(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"signature": "", "signer": ""})


def sign_for_himself(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    """A sound signature, by a key that the manifest itself names."""
    return signed(manifest.model_copy(update={"signer": public_hex(stranger.public_key())}), stranger)


def sign_in_my_name(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    signature = sign_for_himself(manifest, stranger).signature
    return manifest.model_copy(update={"signature": signature})


def with_counts(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"counts": manifest.counts.model_copy(update={"read": 7000})})


def without_a_file(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"files": {k: v for k, v in manifest.files.items() if k != "README.md"}})


def never_expiring(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"assessment": None})


def with_another_hmac(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return authenticated(manifest, derive(b"another secret of the tests"))


def zeros(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"signature": "0" * 128})


FORGERIES: dict[Callable[[ReleaseManifest, Ed25519PrivateKey], ReleaseManifest], str] = {
    drop_signature: "is not signed",
    drop_signer: "is not signed",
    sign_for_himself: "names another key as its signer",
    sign_in_my_name: "signature does not fit",
    with_counts: "signature does not fit",
    without_a_file: "signature does not fit",
    never_expiring: "signature does not fit",
    with_another_hmac: "signature does not fit",
    zeros: "signature does not fit",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_forger_with_a_key_of_his_own(forge: Any, copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """He computes all else anew, so that nobody could tell without the key."""
    manifest = ReleaseManifest.from_json((copy / "RELEASE.json").read_bytes(), "")
    forged = forge(manifest, private_key(str(keys / "other"), "sign"))
    (copy / "RELEASE.json").write_text(text_of(forged))
    if forge is without_a_file:
        (copy / "README.md").unlink()
    assert verify(copy) == []
    (problem,) = verify(copy, None, public_key(str(keys / "mine.pub"), "--key"))
    assert FORGERIES[forge] in problem
    assert main(["verify", str(copy), "--key", str(keys / "mine.pub")]) == 1
    assert "NOT SOUND" in capsys.readouterr().out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_altered_byte_of_any_file_is_found(sound: Path, keys: Path, data: st.DataObject) -> None:
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    assert len(files) == 5
    file, key = data.draw(st.sampled_from(files)), public_key(str(keys / "mine.pub"), "--key")
    with one_byte_altered(file, data):
        problems = verify(sound, None, key)
    assert problems
    assert file.name in problems[0]
