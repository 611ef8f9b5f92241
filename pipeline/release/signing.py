"""Signatures of releases: Ed25519 (RFC 8032) by a key of the user's, in PEM, which is never made in silence.

The signature covers RELEASE.json without the signature itself and the digest: so it covers the sha256 of every file,
the public key of the signer, and the HMAC.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.optional import require_package
from pipeline.release.manifest import SEAL, ReleaseManifest, body_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PURPOSE = b"doppel release\0"
"""What every signed message begins with: a signature of something else, by the same key, is none of a release."""
LARGEST_KEY = 1 << 14
"""Bytes of a file with a key, at most."""
PRIVATE = "an Ed25519 private key in PEM (PKCS #8) is expected, as doppel new-key makes it"
"""What a signer's key must be."""
PUBLIC = "an Ed25519 public key in PEM is expected, as doppel new-key writes it into FILE.pub"
"""What a verifier's key must be."""


def require_signing() -> None:
    """Raises `UserError` with the install line where the package that signs is missing."""
    require_package("cryptography", "the signature of a release", extra="faces")


def new_key(file: Path) -> tuple[Path, str]:
    """Writes a new private key into `file` (mode 0600) and its public key into `file.pub`.

    Returns the place of the public key, and the key itself in hexadecimal. Raises `UserError` where either is there.
    """
    require_signing()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key, public = Ed25519PrivateKey.generate(), file.with_name(f"{file.name}.pub")
    for path in (file, public):
        if os.path.lexists(path):
            raise UserError(f"{path} is there already; a key is never overwritten")
    for path, mode, content in (
        (file, 0o600, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        (public, 0o644, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as handle:
            handle.write(content)
    return public, public_hex(key.public_key())


def private_key(file: str, option: str) -> Ed25519PrivateKey:
    """The private key in a PEM file that `option` names. Raises `UserError`, which shows nothing of the key."""
    require_signing()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = _read(file, option)
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError:
        raise UserError(f"{option}: {PRIVATE}, found one that a password encrypts") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{option}: {PRIVATE}, found {_label(text)}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{option}: {PRIVATE}, found a private key of another kind")
    return key


def public_key(file: str, option: str) -> Ed25519PublicKey:
    """The public key in a PEM file that `option` names. Raises `UserError`, which shows nothing of the file."""
    require_signing()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = _read(file, option)
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{option}: {PUBLIC}, found {_label(text)}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{option}: {PUBLIC}, found a public key of another kind")
    return key


def public_hex(key: Ed25519PublicKey) -> str:
    """The 32 bytes of a public key in hexadecimal."""
    return key.public_bytes_raw().hex()


def signed(manifest: ReleaseManifest, key: Ed25519PrivateKey) -> ReleaseManifest:
    """The manifest with its signature; it must name the key's public half as its signer already."""
    assert manifest.signer == public_hex(key.public_key())
    return manifest.model_copy(update={"signature": key.sign(message_of(manifest)).hex()})


def message_of(manifest: ReleaseManifest) -> bytes:
    """The bytes that a signature covers."""
    return PURPOSE + body_of(manifest, {"signature", "digest"})


def signature_problem(manifest: ReleaseManifest, key: Ed25519PublicKey) -> str | None:
    """Why the release is not proven to be the holder's of `key`, in a sentence; None where it is.

    The key that the manifest names is never trusted, only compared.
    """
    from cryptography.exceptions import InvalidSignature

    if not (manifest.signer and manifest.signature):
        return f"{SEAL} is not signed, so nothing tells who made it"
    if manifest.signer != public_hex(key):
        return f"{SEAL} names another key as its signer, {manifest.signer[:16]}…, than the one given"
    try:
        key.verify(bytes.fromhex(manifest.signature), message_of(manifest))
    except InvalidSignature:
        return f"{SEAL} is not authentic: its signature does not fit what it says"
    return None


def _read(file: str, option: str) -> bytes:
    try:
        with open(os.path.expanduser(file), "rb") as handle:
            return handle.read(LARGEST_KEY)
    except OSError as error:
        raise UserError(f"{option}: cannot read {file!r} ({error.strerror})") from None


def _label(text: bytes) -> str:
    """What a PEM file says that it holds."""
    found = re.search(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", text)
    return f"a PEM file that holds a {found[1].decode()}" if found else "no PEM file"
