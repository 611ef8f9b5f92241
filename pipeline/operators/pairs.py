"""Pairs of images that show an edit, for training on: many tries for each caption, filtered (2211.09800, 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.denoisers import guided
from pipeline.diffusion.editing import AttentionEdit, EditsAttention, Mode, alike, side_by_side, until
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.media.provenance import Details
from pipeline.operators.conditions import check_conditions, rows_for, together
from pipeline.operators.contract import Condition, Descent, Extra, Given, Transformed
from pipeline.operators.edit_scores import EditScores, Thresholds, edit_scores, passes
from pipeline.section import Fraction

GuidanceScale = Annotated[float, Field(ge=0)]
"""A scale of classifier-free guidance; up to 1 there is none."""


class Pairs(Descent):
    """Makes pairs of an image and its edit, from noise, under the caption and the edited caption (2211.09800, 3.1.2).

    Each copy is one try; both images share noise and attention. The output is the image of the caption, with that of
    the edited caption beside it as `after`. Edits differ in what they need: so each try draws its share of attention
    and its guidance. Of all copies those are kept that a CLIP finds to show the edit, the best by direction first.
    """

    selects: ClassVar[bool] = True
    edits_attention: ClassVar[bool] = True
    first_stage_only: ClassVar[bool] = True
    further_go_up: ClassVar[bool] = True
    image_name: ClassVar[str] = "before"

    name: Literal["pairs"] = "pairs"
    copies: int = Field(default=100, ge=1)
    """How many tries each sample gets."""
    keep: int = Field(default=4, ge=1)
    """How many pairs of each sample are kept at most."""
    thresholds: Thresholds = Thresholds()
    """What a pair must reach to be kept."""
    share: tuple[Fraction, Fraction] = (0.1, 0.9)
    """The range that each try draws p from: for a share p of the steps, from the noisiest on, the edited image attends
    as the other does."""
    guidance: tuple[GuidanceScale, GuidanceScale] = (7.5, 15.0)
    """The range that each try draws its scale of guidance from."""
    maps: Literal["cross", "self", "both"] = "cross"
    """What follows for p of the steps: cross-attention, as the paper says, or self-attention, as its code does (here in
    coarse layers only, as in `prompt_to_prompt`)."""
    mode: Mode = "refine"
    """Which words follow which, as in `prompt_to_prompt`."""
    steps: int = Field(default=100, ge=1)
    """How many denoising steps each try takes."""

    @model_validator(mode="after")
    def _ranges(self) -> Pairs:
        for name, (low, high) in {"share": self.share, "guidance": self.guidance}.items():
            if low > high:
                raise ValueError(f"{name}: the range is upside down: {low} is not ≤ {high}")
        return self

    @property
    def needs(self) -> frozenset[Extra]:
        return frozenset({"edited", "judge"})

    @property
    def images_beside(self) -> tuple[str, ...]:
        return ("after",)

    def conditions_used(self) -> tuple[Condition, ...]:
        return ("own", "edited", "none")

    def shows(self, name: str) -> Condition:
        return "edited" if name in self.images_beside else "own"

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"mode": "refine"})  # words need not pair up

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        check_conditions(model, self.conditions_used())

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        assert isinstance(model, EditsAttention)
        uniform = noise.uniform().to(z.device)
        share = self.share[0] + (self.share[1] - self.share[0]) * uniform
        scale = self.guidance[0] + (self.guidance[1] - self.guidance[0]) * (uniform * 2**20 % 1)  # apart from the share
        sigmas = self.schedule(model, model.levels.sigma(torch.ones_like(uniform)))
        levels = sigmas.to(z)
        never, ends = levels[:, 0], until(levels, share)
        edit = AttentionEdit(
            mode=self.mode,
            cross_until=never if self.maps == "self" else ends,
            self_until=never if self.maps == "cross" else ends,
        )
        rows = [rows_for(model, condition, given, len(z)) for condition in ("own", "edited", "none", "none")]
        estimate = guided(together(model.edited(edit), rows), scale)
        both = side_by_side(lambda xs, sigma: [model.limit(x0) for x0 in estimate(xs, sigma)])
        x = add_noise(torch.zeros_like(z), sigmas[:, 0], noise)[:, None].expand(-1, 2, *z.shape[1:])
        out = integrate(both, x, levels, solver=self.stepper(), noise=alike(noise))
        before, after = (model.decode(image) for image in out.unbind(1))
        scores = self._scores(before, after, given)
        details = [
            {"share": p, "guidance": s, "scores": dict(zip(scores, values, strict=True))}
            for p, s, values in zip(share.tolist(), scale.tolist(), zip(*scores.values(), strict=True), strict=True)
        ]
        return Transformed(before, sigmas, details=details, beside={"after": after})

    def _scores(self, before: Tensor, after: Tensor, given: Given) -> dict[str, list[float]]:
        """By the judge, of the images as they are written: within [-1, 1]."""
        judge = given.judge
        assert judge is not None
        assert given.captions is not None
        assert given.edited is not None
        images = [judge.images(image.clamp(-1, 1)) for image in (before, after)]
        texts = [judge.texts(captions) for captions in (given.captions, given.edited)]
        scores = edit_scores(images[0], images[1], texts[0], texts[1])
        return {name: values.tolist() for name, values in vars(scores).items()}

    def choose(self, copies: Sequence[Details]) -> list[int] | str:
        found = [copy["scores"] for copy in copies]
        scores = EditScores(**{name: torch.tensor([one[name] for one in found]) for name in found[0]})
        good = [i for i, passed in enumerate(passes(scores, self.thresholds).tolist()) if passed]
        if good:
            return sorted(good, key=lambda i: -found[i]["direction"])[: self.keep]
        best = max(found, key=lambda one: -math.inf if math.isnan(one["direction"]) else one["direction"])
        reached = ", ".join(f"{name} {value:.2f}" for name, value in best.items())
        asked = ", ".join(f"{name} {value:.2f}" for name, value in self.thresholds.model_dump().items())
        return f"none of {len(copies)} pairs shows the edit: the best has {reached}; asked for are {asked}"
