"""Consistency models on latents: an image in 1 to 8 steps, its guidance told to the network (2310.04378)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.model import Rows
from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.models.folder import read_json
from pipeline.models.schedule import read_scheduler

GUIDANCE = 8.5
"""The scale that LCM is told by default; 1 is no guidance."""
SIGMA_DATA = 0.5


@dataclass(frozen=True, kw_only=True)
class Consistency(Backbone):
    """A network whose estimate is a consistency function: at t = 0 it is the point itself."""

    time_scale: float
    """The scheduler's `timestep_scaling`: the larger, the less of the point is left above t = 0."""

    def denoiser(self, rows: Rows) -> Denoiser:
        estimate = super().denoiser(rows)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            skip, out = boundary(self.levels.timestep(sigma) * self.time_scale)
            return per_row(out, x) * estimate(x, sigma) + per_row(skip * self.levels.scale(sigma), x) * x

        return denoise


def boundary(time: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of the noisy point and of the network's estimate, c_skip and c_out (2310.04378, appendix A)."""
    spread = time**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / spread, time / spread.sqrt()


def bounded_at_0(model: Backbone, folder: Path) -> Backbone:
    """Takes the model as its own scheduler reads it: a consistency function where that is LCM's."""
    scale = read_scheduler(folder).get("timestep_scaling")
    return model if scale is None else Consistency(**vars(model), time_scale=scale)


def guidance_embedding(scale: float, width: int) -> Tensor:
    """Embeds a scale: sines and cosines of 1000·(scale − 1), float32 `[width]`, in the float32 steps that LCM was
    distilled with.
    """
    half = width // 2
    waves = torch.exp(-torch.arange(half) * (torch.log(torch.tensor(1e4)) / (half - 1)))
    angles = torch.tensor(scale - 1) * 1000 * waves
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))


def distilled(model: Backbone, folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Tells a distilled Stable Diffusion or SDXL what it was distilled for: guidance as a number, LCM's scheduler,
    both, or neither.
    """
    model, width = bounded_at_0(model, folder), width_of(folder)
    if width is None:
        return model
    guidance = GUIDANCE if config.distilled_guidance is None else config.distilled_guidance
    told = guidance_embedding(guidance, width)[None].to(device, model.dtype)
    return replace(model, embed=lambda rows: {**model.embed(rows), "timestep_cond": told})


def width_of(folder: Path) -> int | None:
    """The width of the embedding in which the network is told its guidance; None where it is told none."""
    width: int | None = read_json(folder / "unet" / "config.json").get("time_cond_proj_dim")
    return width
