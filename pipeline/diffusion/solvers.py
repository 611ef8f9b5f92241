"""One loop, six step functions. In σ-space Euler *is* DDIM (η = 0) and ancestral Euler *is* DDPM (η = 1).

Every step is written as a blend of the estimate and the current point, `x' = x0 + (σ'/σ)(x − x0)`, not as
`x + (σ' − σ)·d`: the two agree, but the second loses all digits when it starts from pure noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.levels import SIGMA_PURE_NOISE

Noise = Callable[[Tensor], Tensor]
"""A source of noise: `noise(like [B, ...])` draws fresh standard normal noise of the same shape, dtype and device."""


Constraint = Callable[[Tensor, Tensor], Tensor]
"""What holds for the point that a step has reached, at its level: `constraint(x [B, ...], sigma [B]) -> x`."""


class Past(NamedTuple):
    """What a multistep solver remembers: the estimate of the step before, and its σ `[B]`."""

    x0: Tensor
    sigma: Tensor


class Solver(Protocol):
    """A step from `sigma` to `sigma_next` (both `[B]`); it returns the new point and the estimate that it used."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        noise: Noise,
        past: Past | None,
    ) -> tuple[Tensor, Tensor]: ...


def no_noise(like: Tensor) -> Tensor:
    """Stands for the noise of a trajectory that must not draw any. Raises `ValueError`."""
    raise ValueError("this solver draws noise at every step, and none was given: pass noise= to integrate")


def unconstrained(x: Tensor, sigma: Tensor) -> Tensor:
    """The constraint that holds nothing: `x [B, ...]` stays as it is."""
    return x


def integrate(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    solver: Solver,
    noise: Noise = no_noise,
    constraint: Constraint = unconstrained,
) -> Tensor:
    """Walks each `x [B, ...]` (σ-space) along its row of `sigmas [B, n+1]`, down or up; n = 0 returns `x`.

    Rows may differ in every level: each sample has its own schedule. A step between equal levels leaves its
    row untouched, bit for bit: a short schedule is padded by repeating a level, its last 0 for example.
    Raises `ValueError` where a row rises from σ = 0: the probability-flow ODE has no direction there.
    """
    if bool(((sigmas[:, :-1] == 0) & (sigmas[:, 1:] > 0)).any()):
        raise ValueError("a schedule rises from sigma 0: start an inversion at the model's smallest level")
    past = None
    for sigma, sigma_next in zip(sigmas.T[:-1], sigmas.T[1:], strict=True):
        moved, x0 = solver(denoiser, x, sigma, sigma_next, noise, past)
        x = torch.where(per_row(sigma_next != sigma, x).bool(), constraint(moved, sigma_next), x)
        past = Past(x0, sigma)
    return x


def add_noise(x0: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
    """The forward process: `x = x0 + σ·ε` for `x0 [B, ...]` and `sigma [B]`."""
    return x0 + per_row(sigma, x0) * noise(x0)


def blend(x0: Tensor, x: Tensor, ratio: Tensor) -> Tensor:
    """The point `x0 + ratio·(x − x0)`, with `ratio [B]`; exact at ratio 0 and 1."""
    return torch.lerp(x0, x, per_row(ratio, x))


def ratio_of(sigma_next: Tensor, sigma: Tensor) -> Tensor:
    """The ratio σ'/σ `[B]`, and 1 where both are 0."""
    return torch.where(sigma > 0, sigma_next / sigma, 1.0)


def euler(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, past: Past | None
) -> tuple[Tensor, Tensor]:
    """Takes a step of first order: DDIM with η = 0 (2010.02502, eq. 12) in σ-space."""
    x0 = denoiser(x, sigma)
    return blend(x0, x, ratio_of(sigma_next, sigma)), x0


@dataclass(frozen=True, kw_only=True)
class Ancestral:
    """Takes a step of DDIM with any η (2010.02502, eq. 16); η = 1 samples the DDPM posterior (2006.11239, eq. 7).

    It draws noise at every step, also where its share is 0. A step up adds none: it is Euler's.
    """

    eta: float = 1.0

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        noise: Noise,
        past: Past | None,
    ) -> tuple[Tensor, Tensor]:
        x0 = denoiser(x, sigma)
        return _descend(x0, x, sigma, sigma_next, noise, self.eta), x0


def _descend(x0: Tensor, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, eta: float) -> Tensor:
    """`x0 + σ'·(√(1−f²)·(x−x0)/σ + f·ε)`: of the noise, the share `f = η·√(1 − σ'²/σ²)` is drawn afresh."""
    ratio = ratio_of(sigma_next, sigma)
    down = ratio.clamp(max=1)
    fresh = (eta * torch.sqrt(1 - down**2)).clamp(max=1)
    kept = torch.sqrt((1 - eta**2 + (eta * down) ** 2).clamp(min=0))  # √(1−f²), exact at small σ'/σ
    return blend(x0, x, ratio * kept) + per_row(sigma_next * fresh, x) * noise(x)


def consistency(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, past: Past | None
) -> tuple[Tensor, Tensor]:
    """Takes a step of multistep consistency sampling (2303.01469, algorithm 1): `x' = x0 + σ'·ε`, all of the noise
    drawn afresh.

    This is for models whose estimate is the end of the ODE's path, not the mean of all images that x may come from.
    """
    x0 = denoiser(x, sigma)
    return add_noise(x0, sigma_next, noise), x0


def heun(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, past: Past | None
) -> tuple[Tensor, Tensor]:
    """Takes a step of second order in two model calls (2206.00364, algorithm 1); Euler into 0 and out of pure noise.

    The mean of both slopes is Euler's point, corrected: `x' + ½·(σ/σ' − 1)·(D(x', σ') − D(x, σ))`.
    """
    x0 = denoiser(x, sigma)
    guess = blend(x0, x, ratio_of(sigma_next, sigma))
    corrects = (sigma_next > 0) & (sigma < SIGMA_PURE_NOISE)
    if not bool(corrects.any()):
        return guess, x0
    weight = torch.where(corrects, (sigma / sigma_next - 1) / 2, 0.0)
    corrected = guess + per_row(weight, x) * (denoiser(guess, sigma_next) - x0)
    return torch.where(per_row(corrects, x).bool(), corrected, guess), x0


def dpmpp_2m(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, past: Past | None
) -> tuple[Tensor, Tensor]:
    """Takes a step of DPM-Solver++(2M) (2211.01095, algorithm 2): second order at one model call a step."""
    x0 = denoiser(x, sigma)
    return blend(_extrapolate(x0, past, sigma, sigma_next), x, ratio_of(sigma_next, sigma)), x0


def dpmpp_2m_sde(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, past: Past | None
) -> tuple[Tensor, Tensor]:
    """Takes a step of SDE-DPM-Solver++(2M) (2211.01095): `Ancestral(eta=1)` with 2M's extrapolated estimate."""
    x0 = denoiser(x, sigma)
    return _descend(_extrapolate(x0, past, sigma, sigma_next), x, sigma, sigma_next, noise, 1.0), x0


def _extrapolate(x0: Tensor, past: Past | None, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """The estimate at the middle of the step in λ = −ln σ; x0 itself on the first step and into σ = 0."""
    if past is None:
        return x0
    step, step_before = torch.log(sigma / sigma_next), torch.log(past.sigma / sigma)
    weight = torch.where((sigma_next > 0) & (step_before != 0), step / (2 * step_before), 0.0)
    return x0 + per_row(weight, x0) * (x0 - past.x0)


SOLVERS: dict[str, Solver] = {
    "euler": euler,
    "ancestral": Ancestral(eta=1.0),
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "consistency": consistency,
}
