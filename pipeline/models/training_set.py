"""What a model was trained on, as perceptual hashes in its folder: whether it has seen an image can then be asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILE = "training_set.phash"
"""The file in a model's folder. It is no part of the model: hashes of weights leave it out."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The images of a training, hashed as the model saw them."""

    size: tuple[int, int]
    """Height and width in pixels at which they were hashed."""
    fit: str
    """How they were brought to that size."""
    hashes: tuple[int, ...]
    """Perceptual hashes of 64 bits, ascending, so that they do not tell an order."""


def write_training_set(folder: Path, size: tuple[int, int], fit: str, hashes: Iterable[int]) -> None:
    """Writes the file: what holds for all hashes as JSON in the first line, then a hash a line, in hexadecimal."""
    lines = [json.dumps({"size": size, "fit": fit}), *(f"{one:016x}" for one in sorted(hashes))]
    (folder / FILE).write_text("\n".join(lines) + "\n")


def read_training_set(folder: Path) -> TrainingSet | None:
    """Reads the file; None where there is none, or what it says cannot be read: then nothing is known."""
    try:
        first, *lines = (folder / FILE).read_text().splitlines()
        match json.loads(first):
            case {"size": [int(height), int(width)], "fit": str(fit)}:
                pass
            case _:
                return None
    except (OSError, ValueError, RecursionError):
        return None
    if not lines or not all(re.fullmatch("[0-9a-f]{16}", line) for line in lines):
        return None
    return TrainingSet(size=(height, width), fit=fit, hashes=tuple(int(line, 16) for line in lines))
