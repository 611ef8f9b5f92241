"""Mosaic: one image rearranged to look like another, with no diffusion at all (2411.15925 with a given target)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.tiles.assembling import share
from pipeline.diffusion.tiles.regions import to_details
from pipeline.operators.contract import Condition, Extra, Given, Transformed, as_seen, guide_name, image_of
from pipeline.operators.on_tiles import OnTiles


class Mosaic(OnTiles):
    """Finds the assembly of the image's tiles that is nearest to the guide, or of the guide's to the image
    (2411.15925).

    The model's network is not asked, unless features are matched.
    """

    first_stage_only: ClassVar[bool] = True

    name: Literal["mosaic"] = "mosaic"
    tiles_of: Literal["image", "guide"] = "image"
    """Whose tiles are laid: the image's, to look like the guide, or the guide's, to look like the image."""

    @property
    def needs(self) -> frozenset[Extra]:
        return frozenset({"guide"})

    def conditions_used(self) -> tuple[Condition, ...]:
        return ()

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        assert given.guide is not None
        image, guide = image_of(model, z, given)[:, None], as_seen(model, given.guide)[:, None]
        target, source = (guide, image) if self.tiles_of == "image" else (image, guide)
        out, (assembly,) = share(self.matcher(model), target, target, [source[:, 0]], generated=False)
        tiles_of = "input" if self.tiles_of == "image" else guide_name(1)
        details = to_details(self.tiles, model.size, [tiles_of], {"output": assembly})
        return Transformed(out[:, 0], torch.zeros(len(z), 1, dtype=torch.float64, device=z.device), {}, details)
