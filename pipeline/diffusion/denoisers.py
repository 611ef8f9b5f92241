"""A denoiser maps a noisy batch in σ-space to the model's estimate of the clean one; variations wrap it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`denoise(x [B, ...], sigma [B]) -> x0_hat [B, ...]`, with `x = x0 + sigma·ε`."""

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """`value [B]` shaped `[B, 1, …]` to broadcast against `like [B, …]`, in its dtype."""
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def to_x0(output: Tensor, x: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
    """The clean estimate from what the network predicts, `x` in σ-space, `sigma [B]`.

    epsilon: the noise (2006.11239); v_prediction: v = √ᾱ·ε − √(1−ᾱ)·x0 (2202.00512, appendix D); sample: x0;
    flow: the velocity ε − x0 of a rectified flow (2209.03003). At `SIGMA_PURE_NOISE` epsilon says nothing
    about x0, whose estimate is rounding noise: models with zero terminal SNR predict one of the others.
    """
    s = sigma.double()
    if prediction == "sample":
        return output
    if prediction == "epsilon":
        keep, turn = torch.ones_like(s), s
    elif prediction == "v_prediction":
        keep, turn = 1 / (1 + s**2), s / torch.sqrt(1 + s**2)
    elif prediction == "flow":
        keep, turn = 1 / (1 + s), s / (1 + s)
    else:
        raise ValueError(f"prediction is {prediction!r}: known are {', '.join(get_args(Prediction))}")
    return per_row(keep, x) * x - per_row(turn, x) * output


def clip_x0(denoiser: Denoiser, limit: float = 1.0) -> Denoiser:
    """Clamps the estimate to [-limit, limit] (static thresholding)."""

    def clipped(x: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(x, sigma).clamp(-limit, limit)

    return clipped


def dynamic_threshold(denoiser: Denoiser, quantile: float = 0.995, largest: float = math.inf) -> Denoiser:
    """Clamps each estimate to its own `quantile` of |x0|, at least 1 and at most `largest`; divides by it.

    Imagen's dynamic thresholding (2205.11487, section 2.3); keeps strong guidance from saturating pixels. The
    `largest` of 1 that diffusers defaults to (`sample_max_value`) is `clip_x0`.
    """

    def thresholded(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = denoiser(x, sigma)
        limit = torch.quantile(x0.abs().flatten(1), quantile, dim=1).clamp(1.0, largest)
        limit = per_row(limit, x0)
        return x0.clamp(-limit, limit) / limit

    return thresholded
