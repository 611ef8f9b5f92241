"""The autoencoder between pixels and the latents of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.config import ModelConfig

AT_ONCE = 2**21
"""How many pixels an autoencoder is given in one call."""


@dataclass(frozen=True, kw_only=True)
class Vae:
    """The autoencoder, with latents as the network takes them: `(encoded − shift)·scale`."""

    module: nn.Module
    scale: float
    shift: float = 0.0

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    at_once: int
    """How many images go into one call: at full size an autoencoder needs far more memory for each than the network."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Makes latents `[B, C, h, w]` of float32 `[B, 3, H, W]` in [-1, 1]: the mode of the posterior, so that it
        draws nothing.
        """
        return torch.cat([self._encode(some) for some in pixels.split(self.at_once)])

    def decode(self, z: Tensor) -> Tensor:
        """Makes pixels, float32 `[B, 3, H, W]` and about [-1, 1], of latents."""
        return torch.cat([self._decode(some) for some in z.split(self.at_once)])

    def _encode(self, pixels: Tensor) -> Tensor:
        encoded: Any = self.module.encode(pixels.to(self.dtype))  # type: ignore[operator]
        return (encoded.latent_dist.mode().to(pixels.dtype) - self.shift) * self.scale

    def _decode(self, z: Tensor) -> Tensor:
        decoded: Any = self.module.decode((z / self.scale + self.shift).to(self.dtype))  # type: ignore[operator]
        return decoded.sample.to(z.dtype)


def downscaling(config: Mapping[str, Any]) -> int:
    """The side in pixels of a cell of latents, from the autoencoder's config.json."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def vae_of(pipe: Any, size: tuple[int, int], config: ModelConfig) -> Vae:
    """The pipeline's autoencoder for images of `size`, in float32 where float16 would overflow and it says so."""
    if pipe.vae.config.get("force_upcast") and pipe.vae.dtype == torch.float16:
        pipe.vae.to(torch.float32)
    for option in ("latents_mean", "latents_std"):
        if pipe.vae.config.get(option) is not None:
            raise UserError(f"vae/config.json: {option} is given; known are scaling_factor and shift_factor")
    shift = pipe.vae.config.get("shift_factor") or 0.0
    if config.vae.tiling:
        pipe.vae.enable_tiling()
    at_once = 1 if config.vae.slicing else max(1, AT_ONCE // (size[0] * size[1]))
    return Vae(module=pipe.vae, scale=pipe.vae.config.scaling_factor, shift=shift, at_once=at_once)
