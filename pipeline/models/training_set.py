"""What a model's folder tells of the images that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tensors import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

FILE = "training_set.safetensors"
"""The file in a model's folder that tells its training images."""


def read_training_set(folder: Path) -> dict[str, Tensor] | None:
    """The marks of a model's training images, `keys`, `contents` and `looks`; None where its folder says nothing.

    A folder of an earlier version says nothing of their looks. Raises `UserError` for a damaged file.
    """
    return read_tensors(folder / FILE) if (folder / FILE).exists() else None
