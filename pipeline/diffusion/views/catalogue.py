"""The views of anagrams, and the literal dict that their names resolve through."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor

from pipeline.diffusion.views.orthogonal import bilinear_rotation, require_orthogonal
from pipeline.diffusion.views.tiled import BlockFlips, PatchPermutation, SquareHinge
from pipeline.diffusion.views.turned import InnerCircle, Jigsaw, Rings
from pipeline.diffusion.views.view import View, shuffled


class Identity(View):
    """The image as it is."""

    name: Literal["identity"] = "identity"


class FlipVertical(View):
    """The image upside down."""

    name: Literal["flip_vertical"] = "flip_vertical"

    def move(self, grid: Tensor) -> Tensor:
        return grid.flip(0)


class FlipHorizontal(View):
    """The image as in a mirror."""

    name: Literal["flip_horizontal"] = "flip_horizontal"

    def move(self, grid: Tensor) -> Tensor:
        return grid.flip(1)


class Rotate(View):
    """The image turned about its centre."""

    name: Literal["rotate"] = "rotate"
    degrees: float = Field(allow_inf_nan=False)
    """The angle, counter-clockwise, a multiple of 90: between the pixels there is no orthogonal rotation."""

    @field_validator("degrees")
    @classmethod
    def _orthogonal(cls, degrees: float) -> float:
        if degrees % 90:
            require_orthogonal(lambda x: bilinear_rotation(x, degrees), (1, 16, 16), f"a rotation by {degrees:g}°")
            raise ValueError(f"a rotation by {degrees:g}° is not a multiple of 90°")
        return degrees

    def move(self, grid: Tensor) -> Tensor:
        turns = round(self.degrees / 90)
        if turns % 2 and grid.shape[0] != grid.shape[1]:
            raise self.unfit(grid, "a square for a quarter turn")
        return torch.rot90(grid, turns)


class Negate(View):
    """The negative."""

    sign: ClassVar[float] = -1.0
    name: Literal["negate"] = "negate"


class Skew(View):
    """Each column rolled down by `factor` times its distance from the middle."""

    name: Literal["skew"] = "skew"
    factor: float = 1.5

    def move(self, grid: Tensor) -> Tensor:
        height, width = grid.shape
        shift = (self.factor * (torch.arange(width) - width // 2)).long()
        return grid.gather(0, (torch.arange(height)[:, None] - shift) % height)


class PixelPermutation(View):
    """All pixels in another order, drawn from the seed."""

    name: Literal["pixel_permutation"] = "pixel_permutation"
    seed: int = 0

    def move(self, grid: Tensor) -> Tensor:
        return grid.flatten()[shuffled(grid.numel(), self.seed)].reshape(grid.shape)


VIEWS: dict[str, type[View]] = {
    "identity": Identity,
    "flip_vertical": FlipVertical,
    "flip_horizontal": FlipHorizontal,
    "rotate": Rotate,
    "negate": Negate,
    "skew": Skew,
    "patch_permutation": PatchPermutation,
    "pixel_permutation": PixelPermutation,
    "jigsaw": Jigsaw,
    "inner_circle": InnerCircle,
    "square_hinge": SquareHinge,
    "rings": Rings,
    "block_flips": BlockFlips,
}
ROTATIONS = {f"rotate_{degrees}": {"name": "rotate", "degrees": degrees} for degrees in (90, 180, 270)}


def _read(value: Any) -> Any:
    """A bare name is a view with its defaults."""
    return ROTATIONS.get(value, {"name": value}) if isinstance(value, str) else value


AnyView = Annotated[
    Annotated[
        Identity | FlipVertical | FlipHorizontal | Rotate | Negate | Skew | PatchPermutation | PixelPermutation
        | Jigsaw | InnerCircle | SquareHinge | Rings | BlockFlips,
        Field(discriminator="name"),
    ],
    BeforeValidator(_read),
]  # fmt: skip
"""A view as people write it: `jigsaw`, `rotate_90`, `{name: patch_permutation, tiles: 7, seed: 3}`."""
