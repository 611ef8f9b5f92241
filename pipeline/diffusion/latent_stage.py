"""What may be done to an ODE latent, or to an image, between going up and coming down: pure functions of tensors.

A latent is given as x/√(1+σ²), so that it is about N(0, 1) whatever its level: the state of a variance-preserving
model. An image is z. Each stage takes `latent [B, C, h, w]` and the `image` it belongs to, and acts row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample

from pipeline.diffusion.components import gaussian_blur
from pipeline.section import Section


class LatentStage(Section):
    """A change of latents that a recipe names."""

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        """Changes `latent [B, C, h, w]`, row by row; `image` is the z that it belongs to."""
        raise NotImplementedError


class Normalise(LatentStage):
    """Brings each latent to mean 0 and deviation 1: those of another mean or deviation decode to near black."""

    name: Literal["normalise"] = "normalise"
    over: Literal["sample", "channel"] = "sample"
    """What is normalised by itself: the whole latent, or each `channel`, which takes away what the channels' means
    differ by, and with it some of the colour."""

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        flat = latent.flatten(1 if self.over == "sample" else 2)
        centred = flat - flat.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).sqrt()
        return (centred / deviation.clamp(min=1e-8)).reshape(latent.shape)


class LatentScale(LatentStage):
    """Multiplies the latent by a factor."""

    name: Literal["scale"] = "scale"
    factor: float = Field(gt=0)

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        return self.factor * latent


class LatentNoise(LatentStage):
    """Adds one Gaussian pattern n, the same for every sample: `latent + amount·n`."""

    name: Literal["noise"] = "noise"
    amount: float = Field(ge=0)
    seed: int = 0

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        return latent + self.amount * pattern(latent, self.seed)


class LatentBlend(LatentStage):
    """Mixes in the image: `(1 − share)·latent + share·image`."""

    name: Literal["blend"] = "blend"
    share: float = Field(ge=0, le=1)

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        return torch.lerp(latent, image, self.share)


class Checkerboard(LatentStage):
    """Takes every other square, not the top left one, from the image or from Gaussian noise, the same for every
    sample.
    """

    name: Literal["checkerboard"] = "checkerboard"
    square: int = Field(ge=1)
    """The side of a square, in elements of z."""
    other: Literal["image", "noise"] = "image"
    seed: int = 0
    """The seed of the noise."""

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        rows, columns = (torch.arange(n, device=latent.device) // self.square for n in latent.shape[-2:])
        dark = (rows[:, None] + columns) % 2 == 1
        return torch.where(dark, image if self.other == "image" else pattern(latent, self.seed), latent)


class Blur(LatentStage):
    """Blurs with a Gaussian, mirrored at the border. Of a latent it takes deviation: normalise it afterwards."""

    name: Literal["blur"] = "blur"
    sigma: float = Field(gt=0)
    """The standard deviation of the Gaussian, in elements of z."""

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        return gaussian_blur(self.sigma, latent)(latent)


class LatentRotate(LatentStage):
    """Rotates about the centre, anticlockwise; the border is continued. Of a latent, `nearest` keeps the deviation."""

    name: Literal["rotate"] = "rotate"
    degrees: float
    interpolation: Literal["bilinear", "nearest"] = "bilinear"

    def __call__(self, latent: Tensor, image: Tensor) -> Tensor:
        height, width = latent.shape[-2:]
        y, x = (torch.arange(n, device=latent.device, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
        turn = math.radians(self.degrees)
        from_x = x * math.cos(turn) - y[:, None] * math.sin(turn)
        from_y = x * math.sin(turn) + y[:, None] * math.cos(turn)
        places = torch.stack([from_x * 2 / width, from_y * 2 / height], dim=-1).to(latent)
        places = places.expand(len(latent), -1, -1, -1)
        return grid_sample(latent, places, self.interpolation, padding_mode="border", align_corners=False)


AnyImageStage = Annotated[Blur | LatentRotate, Field(discriminator="name")]
AnyStage = Annotated[
    Normalise | LatentScale | LatentNoise | LatentBlend | Checkerboard | Blur | LatentRotate,
    Field(discriminator="name"),
]


def pattern(like: Tensor, seed: int) -> Tensor:
    """Standard normal values `[C, h, w]` for `like [B, C, h, w]`: a function of the seed, and no secret."""
    return torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed)).to(like)


def staged(stages: Sequence[LatentStage], latent: Tensor, image: Tensor) -> Tensor:
    """Takes `latent [B, C, h, w]` through all stages, one after the other."""
    for stage in stages:
        latent = stage(latent, image)
    return latent
