"""Interpolation between the ODE latents of two images (2010.02502, section 5.3), and between conditions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from pipeline.diffusion.denoisers import mixture
from pipeline.diffusion.inversion import slerp
from pipeline.diffusion.model import Between, Model, Outline, RowCondition
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.operators.conditions import Guidance, check_conditions, conditioned, led, rows_for
from pipeline.operators.contract import Bridge, Condition, Extra, Given, Transformed
from pipeline.section import Fraction


def both_ends(value: Any) -> Any:
    """Reads a number as the range from itself to itself; all else is left as it is."""
    return (value, value) if isinstance(value, int | float) else value


class Interpolate(Bridge):
    """Walks image and partner up the ODE, and a point between their latents down again (2010.02502, section 5.3).

    The way down goes by `(1 − a)·D_condition + a·D_towards`, or by the estimate under a point between the embeddings of
    both prompts. The partner is the guide. Without one, only the estimates are mixed, at the image's own latent.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset({"guide"})
    further_go_up: ClassVar[bool] = True

    name: Literal["interpolate"] = "interpolate"
    share: Annotated[tuple[Fraction, Fraction], BeforeValidator(both_ends)] = (0.5, 0.5)
    """The point a between the two: 0 is the image, 1 the partner. Of a range, each sample draws its own."""
    condition: Condition = "own"
    """The condition of the image."""
    towards: Condition | None = None
    """The condition of the partner; the same as `condition` if not given."""
    mix: Literal["estimates", "embeddings"] = "estimates"
    """`estimates` mixes what the model says under both conditions; with `embeddings` it is given `(1 − a)·condition +
    a·towards`, two prompts, and runs once."""
    guidance: Guidance = Guidance()
    """How much more than the model itself does the way down follows its condition; with guidance, the ends are no
    longer the two images."""
    path: int = Field(default=0, ge=0)
    """How many images are also written, evenly from one end to the other, as path-1, path-2 …"""

    @model_validator(mode="after")
    def _two_embeddings(self) -> Interpolate:
        if self.mix == "embeddings" and self.towards is None:
            raise ValueError("mix embeddings goes from one prompt to another: the second is missing, towards")
        return self

    @property
    def stochastic(self) -> bool:
        return super().stochastic or self.share[0] != self.share[1]

    @property
    def needs(self) -> frozenset[Extra]:
        """Two images (a guide), or one image and two conditions."""
        return frozenset({"guide"}) if self.towards is None else frozenset()

    @property
    def further_images(self) -> tuple[str, ...]:
        return tuple(f"path-{i}" for i in range(1, self.path + 1))

    def conditions_used(self) -> tuple[Condition, ...]:
        partner = self.condition if self.towards is None else self.towards
        return (self.condition, partner, *self.guidance.conditions)

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        check_conditions(model, self.conditions_used(), self.guidance)
        if self.mix == "embeddings" and model.conditioning != "text":
            raise UserError("interpolate: mix embeddings: the model takes no prompts; mix estimates takes classes, too")
        if self.mix == "embeddings" and "none" in self.conditions_used()[:2]:
            raise UserError("interpolate: mix embeddings: none is not a prompt, and has no place between prompts")

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        uniform = noise.uniform().to(z.device)
        share = self.share[0] + (self.share[1] - self.share[0]) * uniform
        top = self.level.draw(uniform * 2**20 % 1, model.levels)  # apart from the share
        up, down = self.ladder(model.levels, top, self.lift).flip(1), self.ladder(model.levels, top)
        conditions = self.conditions_used()[:2]
        ways = [conditioned(model, condition, Guidance(), given, z) for condition in conditions]
        here = there = self.walk(ways[0], self.lifted(z, top), up)
        if given.guide is not None:
            there = self.walk(ways[1], self.lifted(model.encode(given.guide), top), up)
        first, second = (conditioned(model, condition, self.guidance, given, z) for condition in conditions)

        def between(a: Tensor) -> Tensor:
            denoiser = first if self.towards is None else mixture(first, second, a)
            if self.mix == "embeddings":
                estimate = led(model, [self._rows(model, given, a)], self.guidance, given, z)
                denoiser = lambda x, sigma: estimate([x], sigma)[0]  # noqa: E731
            return self.walk(denoiser, slerp(here, there, a), down)

        frames = torch.linspace(0, 1, self.path, dtype=torch.float64, device=z.device)
        path = (model.decode(between(a.expand(len(z)))) for a in frames)
        others = dict(zip(self.further_images, path, strict=True))
        return Transformed(model.decode(between(share)), down, others, [{"share": a} for a in share.tolist()])

    def _rows(self, model: Model, given: Given, share: Tensor) -> list[RowCondition]:
        """The prompts between the two of each row: `share [B]`."""
        ends = [rows_for(model, condition, given, len(share)) for condition in self.conditions_used()[:2]]
        return [Between(str(p), str(q), a) for p, q, a in zip(*ends, share.tolist(), strict=True)]
