"""Noise levels: fraction of T ↔ σ ↔ log-SNR, and the grids that a trajectory walks down.

Everything else in doppel speaks σ, the noise-to-signal ratio of `x = x0 + σ·ε`:

    variance preserving   x_t = √ᾱ·x0 + √(1−ᾱ)·ε    σ = √((1−ᾱ)/ᾱ)    x = x_t·√(1+σ²)
    flow                  x_s = (1−s)·x0 + s·ε       σ = s/(1−s)        x = x_s·(1+σ)

SNR = 1/σ², log-SNR = −2·ln σ. The fraction u = t/T ∈ [0, 1] is the unit of the papers: u = 0 is the clean image,
u = 1 the noisiest level, and the discrete level of index t (0 … T−1 in diffusers) lies at u = (t+1)/T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Unit = Literal["fraction", "sigma", "log_snr"]
Spacing = Literal["trailing", "leading", "linspace", "karras"]

SIGMA_PURE_NOISE = 1e8
"""Stands for σ = ∞ (zero terminal SNR, flow at s = 1): the signal is then below float32 resolution, and finite
numbers keep the solvers free of special cases."""


class Levels(Protocol):
    """What a model knows about noise. All tensors are float64, elementwise, of any shape."""

    steps: int
    """T, the number of training levels."""
    spacing: Spacing
    """The model's own grid, from its scheduler configuration."""
    offset: int
    """`steps_offset` of a leading grid, in levels."""

    def sigma(self, fraction: Tensor) -> Tensor: ...
    def fraction(self, sigma: Tensor) -> Tensor: ...
    def timestep(self, sigma: Tensor) -> Tensor:
        """The number the network embeds at this σ."""
        ...

    def scale(self, sigma: Tensor) -> Tensor:
        """c with `x_model = c·x`: from σ-space into the space the network was trained in."""
        ...

    def to(self, device: torch.device | str) -> Levels:
        """The same levels for tensors on `device`."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiscreteLevels:
    """Variance-preserving levels from a table of ᾱ; σ is linear between neighbours, and 0 at fraction 0."""

    knots: Tensor
    """float64 `[T+1]`: 0, then σ of level 0 … T−1, ascending."""
    spacing: Spacing = "trailing"
    offset: int = 0

    @property
    def steps(self) -> int:
        return len(self.knots) - 1

    def sigma(self, fraction: Tensor) -> Tensor:
        return _interpolate(fraction.double().clamp(0, 1) * self.steps, self.knots)

    def fraction(self, sigma: Tensor) -> Tensor:
        sigma = sigma.double().clamp(max=self.knots[-1].item())
        upper = torch.searchsorted(self.knots, sigma).clamp(1, self.steps)
        low, high = self.knots[upper - 1], self.knots[upper]
        return (upper - 1 + (sigma - low) / (high - low)) / self.steps

    def timestep(self, sigma: Tensor) -> Tensor:
        return (self.fraction(sigma) * self.steps - 1).clamp(min=0)

    def scale(self, sigma: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + sigma**2)

    def to(self, device: torch.device | str) -> DiscreteLevels:
        return replace(self, knots=self.knots.to(device))


@dataclass(frozen=True, kw_only=True)
class FlowLevels:
    """Rectified-flow levels `s = shift·u / (1 + (shift−1)·u)`, σ = s/(1−s) (SD 3, 2403.03206, eq. 23)."""

    steps: int = 1000
    shift: float = 1.0
    spacing: Spacing = "trailing"
    offset: int = 0

    def sigma(self, fraction: Tensor) -> Tensor:
        u = fraction.double().clamp(0, 1)
        s = self.shift * u / (1 + (self.shift - 1) * u)
        return (s / (1 - s)).clamp(max=SIGMA_PURE_NOISE)

    def fraction(self, sigma: Tensor) -> Tensor:
        s = sigma.double() / (1 + sigma.double())
        return s / (self.shift - (self.shift - 1) * s)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.double() / (1 + sigma.double()) * self.steps

    def scale(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma)

    def to(self, device: torch.device | str) -> FlowLevels:
        return self


def levels_from_scheduler(config: Mapping[str, Any]) -> Levels:
    """The levels of a diffusers scheduler configuration (the content of `scheduler_config.json`).

    Raises `ValueError` for a beta schedule that is not known here, or a flow model whose shift depends on the
    image size.
    """
    spacing = _spacing(config)
    steps = int(config.get("num_train_timesteps", 1000))
    if "FlowMatch" in str(config.get("_class_name", "")):
        if config.get("use_dynamic_shifting"):
            raise ValueError("scheduler option use_dynamic_shifting is true: only a fixed shift is supported")
        return FlowLevels(steps=steps, shift=float(config.get("shift", 1.0)), spacing=spacing)
    alphas_bar = torch.cumprod(1 - _betas(config, steps), dim=0)
    if config.get("rescale_betas_zero_snr"):
        alphas_bar = _zero_terminal_snr(alphas_bar)
    sigmas = torch.sqrt((1 - alphas_bar) / alphas_bar).clamp(max=SIGMA_PURE_NOISE)
    return DiscreteLevels(
        knots=torch.cat([sigmas.new_zeros(1), sigmas]),
        spacing=spacing,
        offset=int(config.get("steps_offset", 0)),
    )


def log_snr(sigma: Tensor) -> Tensor:
    """−2·ln σ; +∞ at σ = 0."""
    return -2 * torch.log(sigma)


def to_sigma(value: Tensor, unit: Unit, levels: Levels) -> Tensor:
    """A level in any unit as σ (float64). Not clamped: `value` above the model's range gives its largest σ."""
    if unit == "fraction":
        return levels.sigma(value)
    sigma = value.double() if unit == "sigma" else torch.exp(-value.double() / 2)
    return sigma.clamp(0, float(levels.sigma(torch.ones(()))))


def from_sigma(sigma: Tensor, unit: Unit, levels: Levels) -> Tensor:
    """σ in any unit (float64); inverse of `to_sigma` inside the model's range."""
    if unit == "fraction":
        return levels.fraction(sigma)
    return sigma.double() if unit == "sigma" else log_snr(sigma.double())


def grid(levels: Levels, start: Tensor, steps: int, spacing: Spacing | None = None) -> Tensor:
    """Descending σ from `start` to 0 in `steps` steps, one row per element of `start`.

    `start`: σ, float `[B]`. Returns float64 `[B, steps+1]`; with `steps` = 0, just the start. Spacings are those
    of diffusers, applied to the interval [0, u] with u the fraction of `start` (whole trajectory: u = 1), in
    fractions of T, or in σ^(1/7) for `karras` (2206.00364, eq. 5). `trailing`, `linspace` and `karras` begin
    exactly at `start`; `leading` begins one stride below it, as diffusers' img2img does. `None` is the model's own.
    """
    if steps == 0:
        return start.double()[:, None]
    spacing = spacing or levels.spacing
    i = torch.arange(steps, dtype=torch.float64, device=start.device)
    u = levels.fraction(start)[:, None]
    one = 1 / levels.steps  # the fraction of level index 0
    if spacing == "trailing":
        sigmas = levels.sigma(u * (1 - i / steps))
    elif spacing == "linspace":
        sigmas = levels.sigma(u + (one - u).clamp(max=0) * i / max(steps - 1, 1))
    elif spacing == "leading":
        sigmas = levels.sigma(u * (steps - 1 - i) / steps + (levels.offset + 1) * one)
    else:
        low = levels.sigma(torch.full_like(u, one)).minimum(start.double()[:, None]) ** (1 / 7)
        high = start.double()[:, None] ** (1 / 7)
        sigmas = (high + (low - high) * i / max(steps - 1, 1)) ** 7
    return torch.cat([sigmas, torch.zeros_like(u)], dim=1)


def _interpolate(position: Tensor, knots: Tensor) -> Tensor:
    below = position.floor().clamp(max=len(knots) - 2)
    low, high = knots[below.long()], knots[below.long() + 1]
    return low + (position - below) * (high - low)


def _spacing(config: Mapping[str, Any]) -> Spacing:
    if config.get("use_karras_sigmas"):
        return "karras"
    spacing = config.get("timestep_spacing", "trailing")
    if spacing not in ("leading", "trailing", "linspace"):
        raise ValueError(f"scheduler option timestep_spacing is {spacing!r}: known are leading, linspace, trailing")
    return spacing


def _betas(config: Mapping[str, Any], steps: int) -> Tensor:
    """β_1 … β_T, float64, by the formulas diffusers uses for the same names."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config.get("beta_schedule", "linear")
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    if schedule == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64)) * (end - start) + start
    if schedule == "squaredcos_cap_v2":
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        alphas_bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alphas_bar[1:] / alphas_bar[:-1]).clamp(max=0.999)
    known = "linear, scaled_linear, sigmoid, squaredcos_cap_v2"
    raise ValueError(f"scheduler option beta_schedule is {schedule!r}: known are {known}")


def _zero_terminal_snr(alphas_bar: Tensor) -> Tensor:
    """√ᾱ shifted to 0 at T and rescaled to keep its first value (2305.08891, algorithm 1)."""
    root = alphas_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
