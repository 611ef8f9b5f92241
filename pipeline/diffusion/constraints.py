"""What holds of an image at every level of a walk: `x ← x + P(y + σ·ε − x)`, with P a linear projection.

y is the reference, noised to the level that the step has reached. P = A⁺A belongs to a measurement A: where A picks
pixels this is inpainting, where it pools them super-resolution, where it drops colour colourisation; with P a low-pass
it is ILVR. At σ = 0 the measurement of x equals that of y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.solvers import Constraint, Noise, add_noise


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A linear map and its pseudo-inverse; both act on each row of a batch `[B, ...]` by itself."""

    forward: Callable[[Tensor], Tensor]
    """The map A, from images `[B, ...]` to what is known of them."""
    pseudo_inverse: Callable[[Tensor], Tensor]
    """The map A⁺, to an image that measures so, and is 0 in what A does not see."""

    def project(self, x: Tensor) -> Tensor:
        """The part P·x = A⁺A·x that A sees of `x [B, ...]`."""
        return self.pseudo_inverse(self.forward(x))

    def check(self, like: Tensor) -> None:
        """Raises `ValueError` unless A is linear and A·A⁺·A = A, on random probes in the shape of `like`."""
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, *like.shape, generator=generator).to(like)
        seen, other = self.forward(a), self.forward(b)
        small = 1e-4 * float(seen.abs().amax())
        if float((self.forward(a - b) - (seen - other)).abs().amax()) > small:
            raise ValueError("the measurement is not linear: A(a − b) ≠ A·a − A·b")
        apart = float((self.forward(self.project(a)) - seen).abs().amax())
        if apart > small:
            raise ValueError(f"the pseudo-inverse does not belong to the measurement: |A·A⁺·A − A| = {apart:.2g}")


def pixels(mask: Tensor) -> Measurement:
    """The measurement of inpainting: known are the pixels where `mask [B, 1, H, W]` is 0; it is 1 where the image is to
    change.
    """
    return Measurement(forward=lambda x: x * (1 - mask), pseudo_inverse=lambda y: y * (1 - mask))


def pooling(factor: int) -> Measurement:
    """The measurement of super-resolution: known is the mean of each square of `factor` × `factor` pixels; `factor`
    divides H and W.
    """
    return Measurement(
        forward=lambda x: avg_pool2d(x, factor),
        pseudo_inverse=lambda y: interpolate(y, scale_factor=factor, mode="nearest"),
    )


def grey(channels: int = 3) -> Measurement:
    """The measurement of colourisation: known is the mean of the channels of `[B, channels, H, W]`."""
    return Measurement(
        forward=lambda x: x.mean(1, keepdim=True), pseudo_inverse=lambda y: y.expand(-1, channels, -1, -1)
    )


def consistent(measurement: Measurement, reference: Tensor, noise: Noise) -> Constraint:
    """Makes x measure as the noised `reference [B, ...]` does. Raises `ValueError` for a wrong pseudo-inverse."""
    measurement.check(reference)

    def constrain(x: Tensor, sigma: Tensor) -> Tensor:
        return x + measurement.project(add_noise(reference, sigma, noise) - x)

    return constrain


def keep(mask: Tensor, reference: Tensor, noise: Noise) -> Constraint:
    """Does what `consistent(pixels(mask), …)` does, bit for bit: where `mask` is 0, x *is* the noised reference."""
    kept = mask < 0.5

    def constrain(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(kept, add_noise(reference, sigma, noise), x)

    return constrain


def from_level(floor: Tensor, constraint: Constraint) -> Constraint:
    """Holds the constraint in each row where its σ is `floor [B]` or more; below that, x is free."""

    def constrain(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(per_row(sigma >= floor.to(sigma), x).bool(), constraint(x, sigma), x)

    return constrain


def shared(noise: Noise, like: Tensor) -> Noise:
    """Draws from `noise` once, for images like `like [B, ...]`: the same ε at every level."""
    epsilon = noise(like)
    return lambda like: epsilon
