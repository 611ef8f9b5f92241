"""Models whose denoiser is known in closed form: every operator has an exact answer on them.

They are public because they are the best way to try an operator, a solver or a schedule: no weights, no
approximation, any shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.levels import Levels
from pipeline.diffusion.model import Rows, labels_of


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """The denoiser of data x0 ~ N(mean, std²) in every coordinate, independently.

    `mean` and `std` are numbers, or tensors that broadcast against `x [B, ...]`.
    """

    mean: float | Tensor = 0.0
    std: float | Tensor = 1.0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] = (s²·x + σ²·μ) / (s² + σ²), `sigma [B]`."""
        noise, signal = per_row(sigma, x) ** 2, self.std**2
        return (signal * x + noise * self.mean) / (signal + noise)

    def flow(self, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Solves the probability-flow ODE exactly: x' = μ + (x−μ)·√((s²+σ'²)/(s²+σ²))."""
        now, then = (self.std**2 + per_row(s, x) ** 2 for s in (sigma, sigma_next))
        return self.mean + (x - self.mean) * (then / now) ** 0.5


@dataclass(frozen=True, kw_only=True)
class GaussianMixture:
    """The denoiser of data from K Gaussians: with probability weights[k], x0 ~ N(means[k], std²) in each coordinate.

    `means [K, ...]`, each in the shape of one sample (of one axis at least); `weights` sum to 1.
    """

    means: Tensor
    weights: Sequence[float]
    std: float = 1.0

    def posterior(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The probability of each Gaussian given x, `[B, K]`."""
        apart = (x[:, None] - self.means[None]).flatten(2).square().sum(-1)
        logits = -apart / (2 * (self.std**2 + sigma.to(x) ** 2))[:, None]
        return torch.softmax(logits + torch.tensor(self.weights, dtype=x.dtype, device=x.device).log(), dim=1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]: the components' estimates, weighted by their posterior probability."""
        each = torch.stack([Gaussian(mean=mean, std=self.std)(x, sigma) for mean in self.means], dim=1)
        weights = self.posterior(x, sigma)
        return (weights.reshape(*weights.shape, *[1] * (x.ndim - 1)) * each).sum(1)


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """A whole model (`pipeline.diffusion.model.Model`) around a denoiser of this file, on pixels as they are."""

    denoise: Denoiser
    """The estimate without a condition."""
    levels: Levels
    """The noise levels that operators walk along."""
    size: tuple[int, int]
    """Height and width in pixels; images have 3 channels."""
    by_class: tuple[Denoiser, ...] = ()
    """The estimate for each class."""
    class_names: tuple[str, ...] | None = None
    space: Literal["pixel", "latent"] = "pixel"
    unconditional: bool = True
    hash: str = ""

    @property
    def classes(self) -> int | None:
        return len(self.by_class) or None

    @property
    def conditioning(self) -> Literal["none", "class"]:
        return "class" if self.by_class else "none"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, *self.size)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, z: Tensor) -> Tensor:
        return z

    def limit(self, x0: Tensor) -> Tensor:
        return x0

    def denoiser(self, rows: Rows) -> Denoiser:
        if rows is None or not self.by_class:
            return self.denoise
        labels = labels_of(rows)

        def by_label(x: Tensor, sigma: Tensor) -> Tensor:
            estimates = torch.stack([denoise(x, sigma) for denoise in (*self.by_class, self.denoise)])
            return estimates[labels.to(x.device), torch.arange(len(x), device=x.device)]  # −1 is the last: none

        return by_label
