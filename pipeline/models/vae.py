"""The autoencoder between pixels and the latents of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Vae:
    """Latents as the network takes them: `(encoded − shift)·scale`."""

    module: nn.Module
    scale: float
    shift: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 `[B, 3, H, W]` in [-1, 1] → `[B, C, h, w]`: the mode of the posterior, so that it draws nothing."""
        encoded: Any = self.module.encode(pixels.to(self.dtype))  # type: ignore[operator]
        return (encoded.latent_dist.mode().to(pixels.dtype) - self.shift) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        decoded: Any = self.module.decode((z / self.scale + self.shift).to(self.dtype))  # type: ignore[operator]
        return decoded.sample.to(z.dtype)


def downscaling(config: Mapping[str, Any]) -> int:
    """Pixels a side of a cell of latents, from the autoencoder's config.json."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def vae_of(pipe: Any) -> Vae:
    """The pipeline's autoencoder, in float32 where float16 would overflow and its configuration says so."""
    if pipe.vae.config.get("force_upcast") and pipe.vae.dtype == torch.float16:
        pipe.vae.to(torch.float32)
    for option in ("latents_mean", "latents_std"):
        if pipe.vae.config.get(option) is not None:
            raise UserError(f"vae/config.json: {option} is given; known are scaling_factor and shift_factor")
    shift = pipe.vae.config.get("shift_factor") or 0.0
    return Vae(module=pipe.vae, scale=pipe.vae.config.scaling_factor, shift=shift)
