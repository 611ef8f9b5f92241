"""An upper stage of a cascade: a model that sees, beside the noisy image, a small one that it is to enlarge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.levels import Levels
from pipeline.diffusion.model import Rows
from pipeline.diffusion.solvers import Noise, add_noise
from pipeline.diffusion.views.view import Moves
from pipeline.models.backbone import Backbone
from pipeline.models.prompts import Embedding
from pipeline.models.sketch import Sketch


@dataclass(frozen=True, kw_only=True)
class Enlarging(Backbone):
    """A model that enlarges small images, one for each row (`pipeline.diffusion.model.Model`).

    `predict` takes the noisy z and, as further channels, the small image.
    """

    low: Tensor
    """The small images, float32 `[R, 3, h, w]`, in the size of z, noised. R divides the number of rows that are asked
    for, which come condition by condition: `low` is repeated to their number."""

    def viewed(self, views: Sequence[Moves]) -> Enlarging:
        """The model for the rows of several views, view by view: each sees its own view of the small image, too."""
        return replace(self, low=torch.cat([view(self.low) for view in views]))

    def denoiser(self, rows: Rows) -> Denoiser:
        def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
            low = self.low.repeat(len(x) // len(self.low), 1, 1, 1).to(x)
            return self.predict(torch.cat([x, low], 1), timestep, embedding)

        return Backbone.denoiser(replace(self, predict=predict), rows)


@dataclass(frozen=True, kw_only=True)
class Stage(Sketch):
    """A loaded upper stage; a model (`on`) only once it is known what it enlarges."""

    backbone: Backbone
    noising: Levels
    """The levels of the noise that small images get."""
    noise_level: int
    """The level of that noise, an index into `noising`; `backbone.predict` tells the network."""

    def on(self, low: Tensor, noise: Noise) -> Enlarging:
        """Makes the model that enlarges `low [R, 3, h, w]`, about [-1, 1].

        `low` is scaled to z (bilinear, as IF does; the ×4 upscaler has z in the size of `low` already) and noised once,
        with R rows of `noise`.
        """
        sized = interpolate(low, size=self.shape[-2:], mode="bilinear", align_corners=True)
        level = torch.full((len(low),), (self.noise_level + 1) / self.noising.steps, dtype=torch.float64)
        sigma = self.noising.sigma(level.to(low.device))
        noised = add_noise(sized, sigma, noise) * per_row(self.noising.scale(sigma), sized)
        return Enlarging(**vars(self.backbone), low=noised)
