"""Making Images from Images: several images from one set of tiles (2411.15925)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.assembling import share
from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import grid
from pipeline.diffusion.matching import Measure, Repeats, make_matcher
from pipeline.diffusion.model import Model
from pipeline.diffusion.regions import Cut, to_details
from pipeline.diffusion.solvers import add_noise, blend, euler, integrate
from pipeline.errors import UserError
from pipeline.noise import KeyedNoise
from pipeline.operators.conditions import Guidance, check_conditions, joint
from pipeline.operators.contract import Condition, Descent, Extra, Given, Transformed


class TileMorph(Descent):
    """Each image descends from noise of its own; at every step the estimates are made to share their tiles:

        v_i = match(x0_i, tiles),  tiles = mean_i v_i⁻¹(x0_i),  x0_i ← v_i(tiles)

    With `source: image` the tiles are the sample's own, and only rearranged; the output is made of nothing else. A
    guide gives its tiles, too. The output is the image under the first condition; the others come as image-2 ….
    """

    stochastic: ClassVar[bool] = True
    invertible: ClassVar[bool] = False
    accepts: ClassVar[frozenset[Extra]] = frozenset({"guide"})

    name: Literal["tile_morph"] = "tile_morph"
    conditions: tuple[Condition, ...] = Field(min_length=1)
    tiles: Cut
    source: Literal["generated", "image"] = "generated"
    """`generated`: the first image makes the tiles, the others are made of them."""
    repeats: Repeats = 1
    """How often a tile may be used in one image."""
    match: Measure = "l2"
    match_from: LevelRange = LevelRange(unit="sigma", low=2, high=2)
    """Level below which images share their tiles: above it, an estimate has no parts yet."""
    rollout: int = Field(default=1, ge=1)
    """Deterministic steps to the clean images that are matched; 1 takes the estimates, at no cost."""
    guidance: Guidance = Guidance(scale=3)

    @model_validator(mode="after")
    def _enough_images(self) -> TileMorph:
        if self.source == "generated" and len(self.conditions) < 2:
            raise ValueError("1 condition for source generated: two or more images share their tiles")
        return self

    def conditions_used(self) -> tuple[Condition, ...]:
        return self.conditions

    def check(self, model: Model, second: Model | None) -> None:
        try:
            make_matcher(model, self.tiles, self.match, self.repeats)
        except ValueError as error:
            raise UserError(f"tile_morph: {error}") from None
        check_conditions(model, self.conditions, self.guidance)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        matcher = make_matcher(model, self.tiles, self.match, self.repeats)
        estimate = joint(model, self.conditions, self.guidance, given, z)
        generated, count = self.source == "generated", len(self.conditions)
        fixed = {} if generated else {"input": z}
        if given.guide is not None:
            fixed["guide"] = model.encode(given.guide)
        own = partial(share, matcher, fixed=[*fixed.values()], generated=generated)
        begin = self.match_from.draw(noise.uniform().to(z.device), model.levels)

        def together(x: Tensor, sigma: Tensor) -> Tensor:
            return torch.stack(list(estimate(x.unbind(1), sigma)), 1)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            x0, acts = together(x, sigma), sigma <= begin.to(sigma)
            if not bool(acts.any()):
                return x0
            levels = grid(model.levels, sigma, self.rollout, "trailing").to(x)
            clean = integrate(together, blend(x0, x, levels[:, 1] / levels[:, 0]), levels[:, 1:], solver=euler)
            return torch.where(per_row(acts, x).bool(), own(x0, clean)[0], x0)

        sigmas = self.schedule(model, model.levels.sigma(torch.ones_like(begin)))
        x = add_noise(torch.zeros_like(z)[:, None].repeat_interleave(count, 1), sigmas[:, 0], noise)
        out = integrate(denoise, x, sigmas.to(z), solver=self.stepper(), noise=noise)
        out, assemblies = own(out, out)  # hard: made of tiles, whatever the level at which sharing began
        names = ["output", *(f"image-{i}" for i in range(2, count + 1))]
        sources = ["output", *fixed] if generated else [*fixed]
        made = dict(zip(names[generated:], assemblies, strict=True))
        details = to_details(self.tiles, model.size, sources, made)
        return Transformed(out[:, 0], sigmas, dict(zip(names[1:], out.unbind(1)[1:], strict=True)), details)
