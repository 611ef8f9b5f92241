"""What operators that lay images out of tiles have in common."""

from __future__ import annotations

from typing import ClassVar

from pipeline.diffusion.model import Outline
from pipeline.diffusion.tiles.matching import Tiling
from pipeline.errors import UserError
from pipeline.operators.contract import Operator


class OnTiles(Tiling, Operator):
    """An operator that lays images out of tiles, and finds the places of the tiles by matching (2411.15925)."""

    moves_tiles: ClassVar[bool] = True

    @property
    def not_on_latents(self) -> str | None:
        return "matches features of pixels (match l2 and gradient need none)" if self.match == "features" else None

    @property
    def not_on_clips(self) -> str | None:
        return "lays the tiles of single images"

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        try:
            self.matcher(model)
        except ValueError as error:
            raise UserError(f"{self.name}: {error}") from None
