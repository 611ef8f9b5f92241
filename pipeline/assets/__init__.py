"""What ships with the package: a small denoiser and a sample of real images, both under free licences."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent
PREFIX = "embedded:"


def resolve(path: str) -> str:
    """`embedded:fashion_mnist/model` → where it was installed; any other path or URL as it is, `~` expanded."""
    if path.startswith(PREFIX):
        return str(ROOT / path.removeprefix(PREFIX))
    return os.path.expanduser(path)
