"""Perceptual resolution enhancement: upsample, then Boomerang (2210.12100)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.diffusion.constraints import consistent, pooling
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, integrate, unconstrained
from pipeline.errors import UserError
from pipeline.operators.conditions import Conditioned
from pipeline.operators.contract import Given, Transformed, image_of


class Enhance(Conditioned):
    """Measures y, the means of `factor` × `factor` squares, noises its bicubic upsample to t_boom, and returns
    (2210.12100).

    So images of full size show what is lost and regained. One that came in small, and that the run has brought to the
    model's size, loses nothing: the means of its upsample are about its own pixels.
    """

    dial: ClassVar[str | None] = "t_boom"

    name: Literal["enhance"] = "enhance"
    factor: int = Field(default=4, ge=2)
    """The side of the squares, in pixels; it divides the sides of the image."""
    t_boom: LevelRange = LevelRange(low=0.6, high=0.6)
    """The noise level that the upsample is taken to: more is sharper, less is closer to the upsample."""
    consistent: bool = True
    """Whether the measurement holds at every level: the output's means are exactly y (then rounded to 8 bits). With a
    model of latents, which can't be measured, it holds at the end only."""

    @property
    def not_on_clips(self) -> str | None:
        return "measures squares of single images"

    def check(self, model: Outline, second: Outline | None) -> None:
        height, width = model.size
        if height % self.factor or width % self.factor:
            raise UserError(f"enhance: factor {self.factor} does not divide the model's {height} × {width} pixels")
        super().check(model, second)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        measurement, image = pooling(self.factor), image_of(model, z, given)
        measured = measurement.forward(image)
        upsampled = model.encode(interpolate(measured, size=image.shape[2:], mode="bicubic"))
        holds = self.consistent and model.space == "pixel"
        held = consistent(measurement, z, noise) if holds else unconstrained
        sigmas = self.schedule(model, self.t_boom.draw(noise.uniform().to(z.device), model.levels))
        x = held(add_noise(upsampled, sigmas[:, 0], noise), sigmas[:, 0])
        denoiser = self.denoiser(model, given, z)
        x = integrate(denoiser, x, sigmas.to(z), solver=self.stepper(), noise=noise, constraint=held)
        pixels = model.decode(x)
        if self.consistent and not holds:
            pixels = pixels + measurement.pseudo_inverse(measured - measurement.forward(pixels))
        return Transformed(pixels, sigmas)
