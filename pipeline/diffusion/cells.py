"""Between pixels and the cells of a latent grid: each cell stands for a square of pixels.

What moves or marks pixels is carried to the grid here; where it tears cells apart, there is no such thing in latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, adaptive_max_pool3d

from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.views.view import Moves, View


def cell_side(model: Outline) -> int:
    """The side, in pixels, of the square that one place of z stands for; 1 where z is the image itself."""
    return model.size[0] // model.shape[-2]


def to_cells(mask: Tensor, z: Tensor) -> Tensor:
    """Brings `mask [B, 1, H, W]` to the grid of `z [B, C, h, w]`: a cell is to change (1) where any of its pixels is.

    Of clips, `[B, 1, F, H, W]` to `[B, C, F, h, w]`. So a kept cell holds nothing but kept pixels, and what must not be
    known of a changed pixel is not kept.
    """
    if mask.shape[-2:] == z.shape[-2:]:
        return mask
    return adaptive_max_pool3d(mask, z.shape[-3:]) if z.ndim == 5 else adaptive_max_pool2d(mask, z.shape[-2:])


def cell_order(view: View, model: Outline) -> Tensor:
    """Which cell comes to each place when pixels move as in `view`: int64 `[h·w]`.

    Raises `ValueError` for a view that tears cells apart, or that is no move of pixels at all.
    """
    (height, width), side = model.size, cell_side(model)
    where = "and the model works on latents"
    if view.sign < 0:
        raise ValueError(f"view {view.name} changes the sign of pixels, {where}, which have no such sign")
    source = view.index(height, width).reshape(height, width)
    cells = (source // width // side * (width // side) + source % width // side).unflatten(1, (-1, side))
    cells = cells.unflatten(0, (-1, side)).transpose(1, 2).flatten(2).flatten(0, 1)  # [h·w, side²]
    if bool((cells != cells[:, :1]).any()):
        raise ValueError(f"view {view.name} tears squares of {side} × {side} pixels apart, {where} that stand for them")
    return cells[:, 0]


@dataclass(frozen=True)
class CellView:
    """A view on a model of latents: whole cells of the noisy latents move, clean estimates go back through pixels.

    Noise is white in every cell, and stays so; what an image's latents hold inside a cell does not move with it.
    """

    view: View
    model: Model
    order: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(-2).index_select(-1, self.order.to(x.device)).reshape(x.shape)

    def inverse(self, x: Tensor) -> Tensor:
        """Takes a clean estimate `[B, C, h, w]` back through the pixels of the view."""
        return self.model.encode(self.view.inverse(self.model.decode(x)))


def views_on(model: Model, views: Sequence[View]) -> Sequence[Moves]:
    """The views as the model's space undergoes them. Raises `ValueError` for a view that its space can't undergo."""
    if model.space == "pixel":
        return views
    return [view if view.name == "identity" else CellView(view, model, cell_order(view, model)) for view in views]
