"""What must not leave with an image: its key, its place in the source, who is in it, and what its file says besides."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from PIL import Image

from pipeline.errors import UserError
from pipeline.media.frame import Frame
from pipeline.media.pixels import Codec, encode

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

PEOPLE_PER_LABEL = 5
"""At least so many people must hold a label that is published."""
SHORTEST_NAME = 3
"""Keys and names with fewer characters are not searched for, because they are found in any text."""
PLAIN_INFO = frozenset({"jfif", "jfif_version", "jfif_unit", "jfif_density", "background", "loop"})
"""What Pillow reports for JPEG and WebP files that hold nothing but an image."""


def derive(salt: bytes) -> bytes:
    """Derives a key of 32 bytes from the salt by scrypt (RFC 7914).

    Each guess at a weak salt costs 16 MB and some 50 ms.
    """
    return hashlib.scrypt(salt, salt=b"doppel release", n=2**14, r=8, p=1, dklen=32)


def release_key(secret: bytes, key: str) -> str:
    """The name under which the sample `key` is released: 32 hexadecimal digits, a hash keyed with `derive(salt)`."""
    return _keyed(secret, key, b"key")


def job_token(secret: bytes, facts: object) -> str:
    """32 hexadecimal digits that tell whoever has the salt whether a release was made of these facts (JSON)."""
    return _keyed(secret, json.dumps(facts, sort_keys=True), b"job")


def seal_key(secret: bytes) -> bytes:
    """The key of 32 bytes by which RELEASE.json is authenticated; it is used for nothing else."""
    return hashlib.blake2b(key=secret, digest_size=32, person=b"doppel seal").digest()


def rank_of(secret: bytes, key: str) -> bytes:
    """16 bytes by which the sample `key` is placed among all: a hash keyed with `derive(salt)`."""
    return bytes.fromhex(_keyed(secret, key, b"order"))


def clean_image(pixels: Pixels8, mode: Literal["L", "RGB"], codec: Codec, quality: int = 95) -> bytes:
    """Encodes uint8 RGB `[H, W, 3]` as a file that holds only these pixels: no EXIF, GPS, ICC, comment or thumbnail.

    Raises `RuntimeError` where the encoder wrote anything else.
    """
    height, width = pixels.shape[:2]
    data = encode(pixels, Frame.whole(mode, (width, height)), codec=codec, quality=quality)
    if found := metadata_of(data):
        raise RuntimeError(f"the encoder wrote {', '.join(found)} beside the pixels")
    return data


def metadata_of(data: bytes) -> list[str]:
    """The names of what an image file holds besides its pixels, sorted; empty for a clean file."""
    with Image.open(io.BytesIO(data)) as image:
        found = {str(name) for name in image.info if name not in PLAIN_INFO}
        found |= {"exif"} if len(image.getexif()) else set()
        found |= {"frames"} if getattr(image, "n_frames", 1) > 1 else set()
        return sorted(found)


def names_in(content: bytes, names: Iterable[str | None]) -> bool:
    """Whether a text holds one of `names` as a word of its own; case and the signs between words don't matter."""
    text = content.decode("utf-8", errors="replace")
    with suppress(ValueError, RecursionError):
        text += " " + json.dumps(json.loads(text), ensure_ascii=False)  # \u0041 is A
    words = f" {_words(text)} "
    wanted = (_words(name) for name in names if name is not None)
    return any(f" {name} " in words for name in wanted if len(name) >= SHORTEST_NAME)


def holders(labels: Sequence[int | None], identities: Sequence[str | None]) -> dict[int, int]:
    """How many people hold each label, by label in order; where nobody is known, how many images.

    There is one entry for each image; None is an image without a label, or of an unknown person. All images of unknown
    people count as one person's, unless nobody is known.
    """
    if nobody_known(identities):
        images = Counter(label for label in labels if label is not None)
        return dict(sorted(images.items()))
    held: dict[int, set[str | None]] = defaultdict(set)
    for label, identity in zip(labels, identities, strict=True):
        if label is not None:
            held[label].add(identity)
    return {label: len(held[label]) for label in sorted(held)}


def nobody_known(identities: Iterable[str | None]) -> bool:
    """Whether no image shows a known person."""
    return all(identity is None for identity in identities)


def check_labels(
    labels: Sequence[int | None], identities: Sequence[str | None], at_least: int = PEOPLE_PER_LABEL
) -> None:
    """Refuses labels that tell who is in an image: fewer than `at_least` people, or images, hold them; see `holders`.

    Raises `UserError`.
    """
    held = holders(labels, identities)
    rare = [label for label, count in held.items() if count < at_least]
    if rare:
        raise UserError(
            f"release.labels: label {rare[0]} tells who is in an image: {held[rare[0]]} "
            f"{'images' if nobody_known(identities) else 'people'} of the release hold it, at least {at_least} are "
            f"needed ({len(rare)} such labels)"
        )


def _keyed(secret: bytes, text: str, purpose: bytes) -> str:
    content = text.encode("utf-8", errors="surrogatepass")
    return hashlib.blake2b(content, key=secret, digest_size=16, person=b"doppel " + purpose).hexdigest()


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
