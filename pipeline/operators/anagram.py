"""Visual anagrams: one image that shows something else in every view (2311.17919)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.cells import cell_order, views_on
from pipeline.diffusion.denoisers import per_row, with_alternating_views, with_views
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate
from pipeline.diffusion.views.catalogue import AnyView
from pipeline.diffusion.views.view import Moves
from pipeline.errors import UserError
from pipeline.operators.conditions import Guidance, check_conditions, conditioned, joint
from pipeline.operators.contract import Condition, Descent, Given, Transformed


@runtime_checkable
class SeesBeside(Protocol):
    """A model that sees something beside the noisy image: on an upper stage of a cascade, the small image."""

    def viewed(self, views: Sequence[Moves]) -> Model:
        """The model for the rows of all `views`, view by view: what it sees beside is viewed like the noisy image."""
        ...


def viewed(model: Model, views: Sequence[Moves]) -> Model:
    """The model for the rows of all `views`, whether or not it sees anything beside the noisy image."""
    return model.viewed(views) if isinstance(model, SeesBeside) else model


class Anagram(Descent):
    """Denoises with x0 = mean_i v_i⁻¹(D_i(v_i(x))), each view v_i under a condition of its own (2311.17919).

    It begins from pure noise, or from the image noised to `start`. The other views come with the output as view-1,
    view-2 … On a model of latents a view must move whole cells (`pipeline.diffusion.cells`).
    """

    name: Literal["anagram"] = "anagram"
    views: tuple[AnyView, ...] = Field(min_length=1)
    """The views, at least one; `identity` is the image as it is."""
    conditions: tuple[Condition, ...]
    """What is seen in each view, one condition for each."""
    reduce: Literal["mean", "alternate"] = "mean"
    """`mean` takes the mean of all views at each step; `alternate` takes one view a step in turn, which is N times
    cheaper, and noisier."""
    guidance: Guidance = Guidance(scale=3)
    """How much more than the model itself does each view shows its condition."""
    start: LevelRange = LevelRange(low=1, high=1)
    """The noise level that the walk starts from; below 1, something of the sample's own image is left."""

    @model_validator(mode="after")
    def _one_condition_a_view(self) -> Anagram:
        if len(self.conditions) != len(self.views):
            raise ValueError(f"{len(self.conditions)} conditions for {len(self.views)} views: one for each is needed")
        if self.reduce == "alternate" and self.solver not in ("ancestral", "euler"):
            raise ValueError(f"reduce alternate needs solver ancestral or euler: {self.solver} compares two estimates")
        return self

    @property
    def further_images(self) -> tuple[str, ...]:
        return tuple(f"view-{i}" for i, view in enumerate(self.views) if view.name != "identity")

    def conditions_used(self) -> tuple[Condition, ...]:
        return (*self.conditions, *self.guidance.conditions)

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        for view in self.views:
            try:
                view.index(*model.size) if model.space == "pixel" else cell_order(view, model)
            except ValueError as error:
                raise UserError(f"anagram: {error}") from None
        check_conditions(model, self.conditions, self.guidance)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        start = self.start.draw(noise.uniform().to(z.device), model.levels)
        sigmas = self.schedule(model, start)
        below = start < model.levels.sigma(torch.ones_like(start))  # at the top nothing of the image is left
        x = add_noise(torch.where(per_row(below, z).bool(), z, 0), sigmas[:, 0], noise)
        views = views_on(model, self.views)
        if self.reduce == "mean":
            denoiser = with_views(joint(viewed(model, views), self.conditions, self.guidance, given, z), views)
        else:
            pairs = zip(views, self.conditions, strict=True)
            each = [conditioned(viewed(model, [view]), c, self.guidance, given, z) for view, c in pairs]
            denoiser = with_alternating_views(each, views, sigmas.to(z))
        out = model.decode(integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise))
        seen = (view(out) for view in self.views if view.name != "identity")
        others = dict(zip(self.further_images, seen, strict=True))
        told = [view.model_dump(mode="json") for view in self.views]
        return Transformed(out, sigmas, others, [{"views": told, "conditions": [*self.conditions]}] * len(z))
