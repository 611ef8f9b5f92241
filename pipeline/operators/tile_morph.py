"""Making Images from Images: several images from one set of tiles (2411.15925)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.diffusion.tiles.assembling import on_each, share, sharing
from pipeline.diffusion.tiles.regions import to_details
from pipeline.operators.conditions import Guidance, check_conditions, joint
from pipeline.operators.contract import Condition, Descent, Extra, Given, Transformed, as_seen, guide_name, image_of
from pipeline.operators.on_tiles import OnTiles


class TileMorph(OnTiles, Descent):
    """Makes several images out of one set of tiles (2411.15925). Each descends from noise of its own; at every step the
    estimates are made to share their tiles:

        v_i = match(x0_i, tiles),  tiles = mean_i v_i⁻¹(x0_i),  x0_i ← v_i(tiles)

    With `source: image` the tiles are the sample's own. Guides give theirs, too. The others come as image-2 … Latents
    are decoded to be matched and laid, and the result is encoded again.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset({"guide"})
    several_guides: ClassVar[bool] = True
    further_go_up: ClassVar[bool] = True

    name: Literal["tile_morph"] = "tile_morph"
    conditions: tuple[Condition, ...] = Field(min_length=1)
    """What each image shows, one condition for each; the first is the output."""
    source: Literal["generated", "image"] = "generated"
    """`generated`: the first image makes the tiles, and the others are made of them. `image`: the tiles are the
    sample's."""
    match_from: LevelRange = LevelRange(unit="sigma", low=2, high=2)
    """The noise level below which images share their tiles: above it, an estimate has no parts yet."""
    rollout: int = Field(default=1, ge=1)
    """How many deterministic steps lead to the clean images that are matched; 1 takes the estimates, at no cost."""
    guidance: Guidance = Guidance(scale=3)
    """How much more than the model itself does each image shows its condition."""

    @model_validator(mode="after")
    def _enough_images(self) -> TileMorph:
        if self.source == "generated" and len(self.conditions) < 2:
            raise ValueError("1 condition for source generated: two or more images share their tiles")
        return self

    @property
    def invertible(self) -> bool:
        return self.source == "image"  # laid another way, but every pixel is still there

    @property
    def further_images(self) -> tuple[str, ...]:
        return tuple(f"image-{i}" for i in range(2, len(self.conditions) + 1))

    def conditions_used(self) -> tuple[Condition, ...]:
        return (*self.conditions, *self.guidance.conditions)

    def shows(self, name: str) -> Condition:
        return self.conditions[("", *self.further_images).index(name)]

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"rollout": 1})

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        check_conditions(model, self.conditions, self.guidance)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        estimate = joint(model, self.conditions, self.guidance, given, z)
        names = ["output", *self.further_images]
        fixed = {} if (generated := self.source == "generated") else {"input": image_of(model, z, given)}
        fixed |= {guide_name(i): as_seen(model, guide) for i, guide in enumerate(given.guides, 1)}
        project = partial(share, self.matcher(model), fixed=[*fixed.values()], generated=generated)
        decode, encode = (partial(on_each, f) for f in (model.decode, model.encode))
        begin = self.match_from.draw(noise.uniform().to(z.device), model.levels)

        def through(x0: Tensor, clean: Tensor) -> Tensor:
            return encode(project(decode(x0), decode(clean))[0])

        denoise = sharing(estimate, through, begin, model.levels, self.rollout)
        sigmas = self.schedule(model, model.levels.sigma(torch.ones_like(begin)))
        x = add_noise(torch.zeros_like(z)[:, None].repeat_interleave(len(names), 1), sigmas[:, 0], noise)
        out = decode(integrate(denoise, x, sigmas.to(z), solver=self.stepper(), noise=noise))
        out, assemblies = project(out, out)  # wherever sharing began, the end is made of tiles
        made = dict(zip(names[generated:], assemblies, strict=True))
        details = to_details(self.tiles, model.size, [*names[:generated], *fixed], made)
        return Transformed(out[:, 0], sigmas, dict(zip(names[1:], out.unbind(1)[1:], strict=True)), details)
