"""What tells one image from another: a hash of its pixels, whatever file they came from."""

from __future__ import annotations

import hashlib

from PIL import Image


def content_hash(image: Image.Image) -> str:
    """The sha256, in hexadecimal, of an image's size and of its pixels as RGB, row by row.

    The image is in mode L or RGB, as `open_image` gives it, in the size of its file.
    """
    digest = hashlib.sha256(b"%d %d\n" % image.size)
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()
