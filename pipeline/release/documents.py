"""The documents of a release, and its complete manifest: hashes of all files, HMAC, and signature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.release.assessment_page import assessment_page
from pipeline.release.card import card
from pipeline.release.config import secret_of
from pipeline.release.manifest import ASSESSMENT, CARD, SEAL, ListedFile, ReleaseManifest, authenticated
from pipeline.release.sealing import staging
from pipeline.release.signing import public_hex, signed
from pipeline.streams.files import sync_file, sync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def document(
    release: Path, manifest: ReleaseManifest, *, salt: bytes, key: Ed25519PrivateKey | None = None
) -> ReleaseManifest:
    """Writes README.md and ASSESSMENT.md of what `publish` has put together, and returns the complete manifest.

    It lists all files, and has its HMAC and, with a key, its signature: `seal` needs no more. A sealed release is left
    as it is. Raises `UserError` where that one is not signed by the same key, or unsigned as this one would be.
    """
    release, signer = real(release), public_hex(key.public_key()) if key else ""
    if (release / SEAL).exists():
        if manifest.signer != signer:
            how = "signed by another key, or by none" if key else "signed, and release.sign names no key"
            raise UserError(f"release.path: {release} holds a release that is {how}; name a new folder")
        return manifest
    staged, manifest = staging(release), manifest.model_copy(update={"signer": signer})
    pages = {CARD: card(manifest), ASSESSMENT: assessment_page(manifest)}
    files = {**manifest.files, **{name: _written(staged / name, text) for name, text in pages.items()}}
    sync_folder(staged)
    complete = authenticated(manifest.model_copy(update={"files": files}), secret_of(salt))
    return signed(complete, key) if key else complete


def _written(file: Path, text: str) -> ListedFile:
    file.write_text(text, encoding="utf-8")
    stored = sync_file(file)
    return ListedFile(sha256=stored.sha256, bytes=stored.bytes, images=0)
