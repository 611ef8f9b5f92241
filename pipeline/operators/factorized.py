"""Factorized diffusion: one image whose components show different things (2404.11615)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from pipeline.diffusion.cells import cell_side, to_cells
from pipeline.diffusion.components import AnyComponents, Components, require_partition
from pipeline.diffusion.denoisers import per_row, with_components
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate, unconstrained
from pipeline.errors import UserError
from pipeline.operators.conditions import Guidance, check_conditions, joint
from pipeline.operators.contract import Condition, Descent, Extra, Given, Transformed, image_of


class Factorized(Descent):
    """Denoises with x0 = Σ f_i(D_i(x)), each component f_i under a condition of its own (2404.11615).

    With `inverse`, f of the sample's own image y is known, and x ← x − f(x) + f(y + σε) before each step and at the
    end. Then f(output) = f(y) + f(1 − f)(x − y): exactly y's where f is a projection (colour, spatial); a blur is none,
    and leaves a quarter of the difference where f = ½, and less elsewhere.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset({"mask"})

    name: Literal["factorized"] = "factorized"
    components: AnyComponents
    """How an image is taken apart, by name or with options."""
    conditions: tuple[Condition, ...]
    """What each component shows, one condition for each, in this order: low, high · low, middle, high · grey, colour ·
    moving, still · inside, outside."""
    inverse: str | None = None
    """The name of the component that is known, the sample's own; None where all are made."""
    guidance: Guidance = Guidance(scale=3)
    """How much more than the model itself does each component shows its condition."""
    start: LevelRange = LevelRange(low=1, high=1)
    """The noise level that the walk starts from; below 1, something of the sample's own image is left."""

    @model_validator(mode="after")
    def _one_condition_a_component(self) -> Factorized:
        kind, names = self.components.kind, self.components.names
        if len(self.conditions) != len(names):
            raise ValueError(f"{len(self.conditions)} conditions for {kind}: one each is needed for {', '.join(names)}")
        if self.inverse is not None and self.inverse not in names:
            raise ValueError(f"inverse is {self.inverse!r}: components of {kind} are {', '.join(names)}")
        if self.inverse == "moving":  # eigenvalues of a box blur reach −0.22: x − f(x) grows by 1.22 each step
            raise ValueError("inverse moving: re-projection on a motion blur amplifies; only still can be known")
        return self

    @property
    def not_on_latents(self) -> str | None:
        return "takes the colours of pixels apart" if self.components.kind == "colour" else None

    @property
    def further_images(self) -> tuple[str, ...]:
        return self.components.seen

    def conditions_used(self) -> tuple[Condition, ...]:
        return (*self.conditions, *self.guidance.conditions)

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        try:
            self.carried(model)
        except ValueError as error:
            raise UserError(f"factorized: {error}") from None
        if self.components.kind == "colour" and model.shape[0] == 1:
            raise UserError("factorized: components colour need a model of colour images, and this one's are grey")
        check_conditions(model, self.conditions, self.guidance)

    def carried(self, model: Outline) -> Components:
        """The components as they are in the model's space. Raises `ValueError`, one sentence, where latents
        have none.
        """
        return self.components.on_cells(cell_side(model)) if model.space == "latent" else self.components

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        mask = None if given.mask is None else to_cells(given.mask, z)
        parts = dict(zip(self.components.names, self.carried(model).parts(z, mask), strict=True))
        require_partition([*parts.values()], z)
        start = self.start.draw(noise.uniform().to(z.device), model.levels)
        sigmas = self.schedule(model, start)
        below = start < model.levels.sigma(torch.ones_like(start))  # else only what is known is left of the image
        part = parts[self.inverse] if self.inverse else torch.zeros_like
        x = add_noise(torch.where(per_row(below, z).bool(), z, part(z)), sigmas[:, 0], noise)

        def reproject(x: Tensor, sigma: Tensor) -> Tensor:
            return x - part(x) + part(add_noise(z, sigma, noise))

        known = reproject if self.inverse else unconstrained
        denoiser = with_components(joint(model, self.conditions, self.guidance, given, z), [*parts.values()])
        out = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise, constraint=known)
        pixels = model.decode(out)
        seen = dict(zip(self.components.names, self.components.parts(pixels, given.mask), strict=True))
        if self.inverse and model.space == "latent":  # the known component is that of pixels
            pixels = pixels + seen[self.inverse](image_of(model, z, given) - pixels)
        return Transformed(pixels, sigmas, {name: seen[name](pixels) for name in self.further_images})
