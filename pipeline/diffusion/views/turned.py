"""Views that turn parts of the image about its centre."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.diffusion.views.jigsaw import jigsaw_turns
from pipeline.diffusion.views.view import View


class TurnedPlaces(View):
    """A view in which each place shows the image turned about its centre by quarters of its own."""

    def turned(self, grid: Tensor, turns: Tensor) -> Tensor:
        """The grid with each place turned by `turns [H, W]` quarters, constant along each orbit under these turns."""
        if grid.shape[0] == grid.shape[1]:
            return torch.stack([torch.rot90(grid, turn) for turn in range(4)]).gather(0, (turns % 4)[None])[0]
        if bool((turns % 2).any()):
            raise self.unfit(grid, "a square for quarter turns")
        return torch.where(turns % 4 == 2, torch.rot90(grid, 2), grid)

    def from_centre(self, grid: Tensor) -> Tensor:
        """Distance of each pixel from the centre of the image, in shorter sides: 0.5 touches the border."""
        down, right = (2 * torch.arange(n) + 1 - n for n in grid.shape)  # half pixels: exactly symmetric
        return (down[:, None] ** 2 + right**2).double().sqrt() / (2 * min(grid.shape))


class InnerCircle(TurnedPlaces):
    """A disc turned inside its frame."""

    name: Literal["inner_circle"] = "inner_circle"
    radius: float = Field(default=24 / 64, gt=0)
    """The disc's radius, in shorter sides of the image: 0.5 touches the border."""
    turns: Literal[1, 2, 3] = 2
    """By how many quarters the disc is turned, counter-clockwise."""

    def move(self, grid: Tensor) -> Tensor:
        return self.turned(grid, (self.from_centre(grid) <= self.radius) * self.turns)


class Rings(TurnedPlaces):
    """Rings of equal width, each turned by its own quarters; the corners stay."""

    name: Literal["rings"] = "rings"
    turns: tuple[Literal[0, 1, 2, 3], ...] = Field(default=(1, 2, 3), min_length=1)
    """The quarter turns of each ring, counter-clockwise, from the inmost, a disc, to that which meets the border."""

    def move(self, grid: Tensor) -> Tensor:
        ring = (2 * len(self.turns) * self.from_centre(grid)).ceil().long().clamp(min=1) - 1
        return self.turned(grid, torch.tensor([*self.turns, 0])[ring.clamp(max=len(self.turns))])


class Jigsaw(TurnedPlaces):
    """Interlocking pieces, each moved to the place of one of its turned copies."""

    name: Literal["jigsaw"] = "jigsaw"
    pieces: int = Field(default=4, ge=2, multiple_of=2)
    """How many pieces there are on each side of the image; even."""
    seed: int = 0

    def move(self, grid: Tensor) -> Tensor:
        if grid.shape[0] != grid.shape[1] or grid.shape[0] % self.pieces:
            raise self.unfit(grid, f"a square whose side divides by {self.pieces} (pieces)")
        return self.turned(grid, jigsaw_turns(len(grid), self.pieces, self.seed))
