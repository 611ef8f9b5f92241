"""Views that take the image apart into square blocks."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.views.view import View, shuffled


class Tiled(View):
    """A view that takes the image apart into `tiles` × `tiles` blocks."""

    tiles: int = Field(ge=1)

    def blocks(self, grid: Tensor) -> Tensor:
        """The blocks of a grid, row by row: `[H, W]` → `[tiles², H/tiles, W/tiles]`."""
        if grid.shape[0] % self.tiles or grid.shape[1] % self.tiles:
            raise self.unfit(grid, f"sides that divide by {self.tiles} (tiles)")
        split = grid.unflatten(1, (self.tiles, -1)).unflatten(0, (self.tiles, -1))
        return split.transpose(1, 2).flatten(0, 1)

    def assembled(self, blocks: Tensor) -> Tensor:
        """The inverse of `blocks`."""
        return blocks.unflatten(0, (self.tiles, self.tiles)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def alternately(self, blocks: Tensor, even: Tensor, odd: Tensor) -> Tensor:
        """Two versions of the blocks as a chequerboard."""
        place = torch.arange(self.tiles)
        black = (place[:, None] + place).flatten() % 2 == 1
        return self.assembled(torch.where(black[:, None, None], odd, even))


class PatchPermutation(Tiled):
    """The blocks in another order."""

    name: Literal["patch_permutation"] = "patch_permutation"
    tiles: int = Field(default=4, ge=1)
    seed: int = 0

    def move(self, grid: Tensor) -> Tensor:
        blocks = self.blocks(grid)
        return self.assembled(blocks[shuffled(len(blocks), self.seed)])


class SquareHinge(Tiled):
    """The blocks turned by +90° and −90° in alternation, as a hinged tessellation opens."""

    name: Literal["square_hinge"] = "square_hinge"
    tiles: int = Field(default=3, ge=1)

    def move(self, grid: Tensor) -> Tensor:
        blocks = self.blocks(grid)
        if grid.shape[0] != grid.shape[1]:
            raise self.unfit(grid, "a square")
        return self.alternately(blocks, blocks.rot90(1, (1, 2)), blocks.rot90(-1, (1, 2)))


class BlockFlips(Tiled):
    """The blocks flipped where they are, upside down and sideways in alternation."""

    name: Literal["block_flips"] = "block_flips"
    tiles: int = Field(default=4, ge=1)

    def move(self, grid: Tensor) -> Tensor:
        blocks = self.blocks(grid)
        return self.alternately(blocks, blocks.flip(1), blocks.flip(2))
