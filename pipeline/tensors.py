"""Files of tensors: a disk that is full and a file that is damaged are errors like those of all other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Writes contiguous tensors as safetensors. Raises `OSError`, which names the file, where that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:
        raise OSError(f"{file}: {error}") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file. Raises `UserError`, which names the file, where it holds none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is damaged, or cannot be read ({error})") from None
