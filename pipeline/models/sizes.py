"""How large a model's images are: as it was trained, or as the recipe asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.folder import read_json
from pipeline.models.vae import downscaling


def latent_grid(folder: Path, network: str) -> tuple[int, dict[str, Any]]:
    """The side in pixels of a cell of latents, and the configuration of the network (`unet`, `transformer`)."""
    return downscaling(read_json(folder / "vae" / "config.json")), read_json(folder / network / "config.json")


def image_size(
    folder: Path, config: ModelConfig, *, trained: int | tuple[int, int] | None, cell: int, multiple: int
) -> tuple[int, int]:
    """Height and width in pixels: `model.size`, else `trained` cells of `cell` pixels a side.

    Raises `UserError` where the recipe's is not a multiple of `multiple`.
    """
    if config.size is not None:
        if any(side % multiple for side in config.size):
            height, width = config.size
            raise UserError(f"model.size is {height} × {width}; allowed are multiples of {multiple} for {folder}")
        return config.size
    if not trained:
        raise UserError(f"{folder}: the network's config.json states no sample_size; give model.size")
    height, width = (trained, trained) if isinstance(trained, int) else trained
    return height * cell, width * cell
