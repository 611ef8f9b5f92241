"""A denoiser maps a noisy batch in σ-space to the model's estimate of the clean one; variations wrap it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline.diffusion.views.orthogonal import LinearMap
from pipeline.diffusion.views.view import Moves

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""An estimate of the clean images: `denoise(x [B, ...], sigma [B]) -> x0_hat [B, ...]`, with `x = x0 + sigma·ε`."""

Joint = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]
"""Estimates under K conditions at once, each at its own point: `estimate(K × [B, ...], sigma [B]) -> K × [B, ...]`."""

Steer = Callable[[Tensor, Tensor], Tensor]
"""Moves an estimate of the clean images to another one: `steer(x0_hat [B, ...], sigma [B]) -> x0_hat [B, ...]`."""

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """Shapes `value [B]` to `[B, 1, …]`, so that it broadcasts against `like [B, …]`, in the dtype of `like`."""
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


def dynamic_threshold(x0: Tensor, quantile: float = 0.995, largest: float = math.inf) -> Tensor:
    """Clamps each estimate to its own `quantile` of |x0|, at least 1 and at most `largest`, and divides by that.

    This is Imagen's dynamic thresholding (2205.11487, section 2.3); it keeps strong guidance from saturating pixels.
    With the `largest` of 1 that diffusers defaults to (`sample_max_value`) it clamps to [-1, 1].
    """
    limit = per_row(torch.quantile(x0.abs().flatten(1), quantile, dim=1).clamp(1.0, largest), x0)
    return x0.clamp(-limit, limit) / limit


def bounded(denoiser: Denoiser, limit: Callable[[Tensor], Tensor]) -> Denoiser:
    """Keeps an estimate within the `limit` of its model."""
    return lambda x, sigma: limit(denoiser(x, sigma))


def steered(denoiser: Denoiser, steer: Steer) -> Denoiser:
    """Moves every estimate by `steer`: what follows goes on from where it was moved to."""
    return lambda x, sigma: steer(denoiser(x, sigma), sigma)


def each(*denoisers: Denoiser) -> Joint:
    """Joins denoisers that know nothing of one another into one estimate under K conditions."""

    def estimate(xs: Sequence[Tensor], sigma: Tensor) -> Sequence[Tensor]:
        return [denoise(x, sigma) for denoise, x in zip(denoisers, xs, strict=True)]

    return estimate


def guided(
    estimate: Joint, scale: float | Tensor, *, rescale: float = 0.0, interval: tuple[float, float] = (0.0, math.inf)
) -> Joint:
    """Classifier-free guidance (2207.12598, eq. 6) for each of K conditions: `D⁻ + scale·(D⁺ − D⁻)`.

    `estimate` has 2K conditions, the K positive ones first, then what each is led away from. The `scale` is one
    number, or `[B]`. Guidance acts where σ lies in `interval` (2404.07724); elsewhere D⁺ stands. `rescale` φ mixes in
    φ of the estimate brought to the deviation of D⁺ (2305.08891, eq. 15 and 16; in terms of x0).
    """

    def guide(xs: Sequence[Tensor], sigma: Tensor) -> Sequence[Tensor]:
        both = estimate([*xs, *xs], sigma)
        acts = (sigma >= interval[0]) & (sigma <= interval[1])
        results = []
        for towards, away in zip(both[: len(xs)], both[len(xs) :], strict=True):
            led = away + (per_row(scale, away) if isinstance(scale, Tensor) else scale) * (towards - away)
            if rescale:
                wanted, found = (side.flatten(1).std(1) for side in (towards, led))
                led = led * per_row(1 - rescale + rescale * wanted / found.clamp(min=1e-8), led)
            results.append(torch.where(per_row(acts, led).bool(), led, towards))
        return results

    return guide


def compose(estimate: Joint, weights: Sequence[float]) -> Denoiser:
    """AND and NOT (2206.01704, eq. 11 and 12): `D_∅ + Σ w_i·(D_i − D_∅)`, NOT being a negative weight.

    `estimate` has K+1 conditions: ∅ (none), then one for each of the K `weights`.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        anyway, *each_one = estimate([x] * (len(weights) + 1), sigma)
        return sum((w * (x0 - anyway) for w, x0 in zip(weights, each_one, strict=True)), start=anyway)

    return denoise


def classifier_guidance(
    denoiser: Denoiser, log_probability: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0
) -> Denoiser:
    """Classifier guidance (2105.05233, eq. 10) in σ-space: `D + scale·σ²·∇ₓ log p(y | x, σ)`.

    `log_probability(x [B, ...], sigma [B]) -> [B]` of the wanted class, each row's from its own point alone,
    differentiable in x. At scale 1, with the exact posterior, this is the estimate given y. May be called in
    inference mode.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            point = x.detach().clone().requires_grad_()  # tensors of inference mode take no gradients
            (slope,) = torch.autograd.grad(log_probability(point, sigma.clone()).sum(), point)
        return denoiser(x, sigma) + scale * per_row(sigma**2, x) * slope

    return denoise


def mixture(
    first: Denoiser, second: Denoiser, share: float | Tensor, *, interval: tuple[float, float] = (0.0, math.inf)
) -> Denoiser:
    """Mixes two estimates: `(1 − share)·D_1 + share·D_2` where σ lies in `interval`, D_1 elsewhere.

    The `share` is one number, or `[B]`. Share 1 hands over from one model to the other at a level: experts for coarse
    and fine (2211.01324).
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x0 = first(x, sigma)
        acts = (sigma >= interval[0]) & (sigma <= interval[1])
        return torch.lerp(x0, second(x, sigma), per_row(share * acts, x)) if bool(acts.any()) else x0

    return denoise


def with_views(estimate: Joint, views: Sequence[Moves]) -> Denoiser:
    """Visual anagrams (2311.17919): each condition sees its own view, `x0 = mean_i v_i⁻¹(D_i(v_i(x)))`.

    Guidance belongs into `estimate`: first guidance, then the inverse view, then the mean.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        estimates = estimate([view(x) for view in views], sigma)
        back = (view.inverse(x0) for view, x0 in zip(views, estimates, strict=True))
        return sum(back, start=torch.zeros_like(x)) / len(views)  # `mean` rounds by the size of the batch

    return denoise


def with_alternating_views(denoisers: Sequence[Denoiser], views: Sequence[Moves], sigmas: Tensor) -> Denoiser:
    """As `with_views`, but each step listens to one view only, in turn: at `sigmas[:, i]` to view i mod N.

    `sigmas [B, n+1]` is the schedule of the walk; a level between two of them belongs to the nearest.
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        turn = (sigmas - sigma[:, None]).abs().argmin(1) % len(views)
        x0 = x
        for i in turn.unique().tolist():  # one, where all rows are at the same step
            own = views[i].inverse(denoisers[i](views[i](x), sigma))
            x0 = torch.where(per_row(turn == i, x).bool(), own, x0)
        return x0

    return denoise


def with_components(estimate: Joint, components: Sequence[LinearMap]) -> Denoiser:
    """Factorized diffusion (2404.11615): each condition makes one component, `x0 = Σ f_i(D_i(x))`.

    The linear `components` f_i sum to the identity (`pipeline.diffusion.components.require_partition`).
    """

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        estimates = estimate([x] * len(components), sigma)
        return sum((part(x0) for part, x0 in zip(components, estimates, strict=True)), start=torch.zeros_like(x))

    return denoise
