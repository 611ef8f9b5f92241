"""What ships with the package: a small denoiser and a sample of real images, both under free licences."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent
PREFIX = "embedded:"


def resolve(path: str) -> Path:
    """`embedded:fashion_mnist/model` → the shipped folder; any other path as it is, `~` expanded."""
    if path.startswith(PREFIX):
        return ROOT / path.removeprefix(PREFIX)
    return Path(path).expanduser()
