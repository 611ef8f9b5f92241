"""What ships with the package: small denoisers, samples of real images, certificates and a face recogniser."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent
"""The folder of all that ships."""
PREFIX = "embedded:"
"""What begins the path of something that ships."""


def resolve(path: str) -> str:
    """The path of `embedded:fashion_mnist/model` as installed; other paths and URLs as they are, `~` expanded."""
    if path.startswith(PREFIX):
        return str(ROOT / path.removeprefix(PREFIX))
    return os.path.expanduser(path)
