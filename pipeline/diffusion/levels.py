"""Noise levels: fraction of T ↔ σ ↔ log-SNR, and the grids that a trajectory walks down.

Everything else in doppel speaks σ, the noise-to-signal ratio of `x = x0 + σ·ε`:

    variance preserving   x_t = √ᾱ·x0 + √(1−ᾱ)·ε    σ = √((1−ᾱ)/ᾱ)    x = x_t·√(1+σ²)
    flow                  x_s = (1−s)·x0 + s·ε       σ = s/(1−s)        x = x_s·(1+σ)

SNR = 1/σ², log-SNR = −2·ln σ. The fraction u = t/T ∈ [0, 1] is the unit of the papers: u = 0 is the clean
image, u = 1 the noisiest level, and the discrete level of index t (0 … T−1 in diffusers) lies at u = (t+1)/T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

Unit = Literal["fraction", "sigma", "log_snr"]
Spacing = Literal["trailing", "leading", "linspace", "karras", "consistency"]

SIGMA_PURE_NOISE = 1e8
"""Stands for σ = ∞ (zero terminal SNR, flow at s = 1): the signal is then below float32 resolution, and a
finite number keeps the formulas free of special cases."""


class Levels(Protocol):
    """What a model knows about noise. All methods are elementwise, on any shape, and return float64.

    Give fractions in float64: close to a zero terminal SNR the rounding of float32 is a large step in σ.
    """

    @property
    def steps(self) -> int:
        """How many training levels there are: T."""
        ...

    @property
    def spacing(self) -> Spacing:
        """How the model's own grid is spaced, from its scheduler configuration."""
        ...

    @property
    def offset(self) -> int:
        """The `steps_offset` of a leading grid, in levels."""
        ...

    @property
    def distilled(self) -> int:
        """How many levels a consistency model has seen: LCM's `original_inference_steps`."""
        ...

    def sigma(self, fraction: Tensor) -> Tensor:
        """The level σ at a fraction of T in [0, 1]."""
        ...

    def fraction(self, sigma: Tensor) -> Tensor:
        """The fraction of T in [0, 1] at a level σ; inverse of `sigma`."""
        ...

    def timestep(self, sigma: Tensor) -> Tensor:
        """The number that the network embeds at this σ."""
        ...

    def scale(self, sigma: Tensor) -> Tensor:
        """The c of `x_model = c·x`: from σ-space into the space that the network was trained in."""
        ...

    def to(self, device: torch.device | str) -> Levels:
        """The same levels for tensors on `device`."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiscreteLevels:
    """Variance-preserving levels from a table of ᾱ; σ is linear between neighbours, and 0 at fraction 0.

    That is how diffusers interpolates, too, except for the timestep of its Karras grids, where t is linear in
    ln σ (and rounded in DPM-Solver).
    """

    knots: Tensor
    """The levels that the table knows, float64 `[T+1]`: 0, then σ of level 0 … T−1, ascending."""
    spacing: Spacing = "trailing"
    offset: int = 0
    distilled: int = 50

    @property
    def steps(self) -> int:
        return len(self.knots) - 1

    def sigma(self, fraction: Tensor) -> Tensor:
        position = fraction.double().clamp(0, 1) * self.steps
        below = position.long().clamp(max=self.steps - 1)
        low, high = self.knots[below], self.knots[below + 1]
        return low + (position - below) * (high - low)

    def fraction(self, sigma: Tensor) -> Tensor:
        sigma = sigma.double().contiguous().minimum(self.knots[-1])  # a strided one makes searchsorted warn
        upper = torch.searchsorted(self.knots, sigma).clamp(1, self.steps)
        low, high = self.knots[upper - 1], self.knots[upper]
        return (upper - 1 + (sigma - low) / (high - low)) / self.steps

    def timestep(self, sigma: Tensor) -> Tensor:
        return (self.fraction(sigma) * self.steps - 1).clamp(min=0)

    def scale(self, sigma: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + sigma.double() ** 2)

    def to(self, device: torch.device | str) -> DiscreteLevels:
        return replace(self, knots=self.knots.to(device))


@dataclass(frozen=True, kw_only=True)
class FlowLevels:
    """Rectified flow with a fixed shift: s = shift·u / (1 + (shift−1)·u), σ = s/(1−s) = shift·u / (1−u).

    SD 3 (2403.03206, eq. 23).
    """

    steps: int = 1000
    shift: float = 1.0
    spacing: Spacing = "trailing"
    offset: int = 0
    distilled: int = 50

    def sigma(self, fraction: Tensor) -> Tensor:
        u = fraction.double().clamp(0, 1)
        return (self.shift * u / (1 - u)).clamp(max=SIGMA_PURE_NOISE)

    def fraction(self, sigma: Tensor) -> Tensor:
        sigma = sigma.double()
        return torch.where(sigma < SIGMA_PURE_NOISE, sigma / (self.shift + sigma), 1.0)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.double() / (1 + sigma.double()) * self.steps

    def scale(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma.double())

    def to(self, device: torch.device | str) -> FlowLevels:
        return self


def levels_from_scheduler(config: Mapping[str, Any], image_tokens: int | None = None) -> Levels:
    """The levels of a diffusers scheduler configuration: `scheduler.config`, or `scheduler_config.json`.

    The spacing is `trailing` where the configuration states none (every flow model; diffusers' own default
    depends on the class). `image_tokens` is the length of the sequence as which a transformer sees an image: the
    shift of a flow model may depend on it. Raises `ValueError` for what is not known here: other names of beta
    schedules, spacings and kinds of shift, EDM preconditioning, and a shift that depends on a size not given.
    """
    for option in ("shift_terminal", "invert_sigmas", "sigma_data"):
        if config.get(option):
            raise ValueError(f"scheduler option {option} is {config[option]!r}: not supported")
    spacing = _spacing(config)
    steps = int(config.get("num_train_timesteps", 1000))
    flow_match = "FlowMatch" in str(config.get("_class_name")) or "shift" in config  # no class in a live one
    if flow_match or config.get("use_flow_sigmas"):
        return FlowLevels(steps=steps, shift=_flow_shift(config, image_tokens), spacing=spacing)
    alphas_bar = torch.cumprod(1 - _betas(config, steps), dim=0)
    if config.get("rescale_betas_zero_snr"):
        alphas_bar = _zero_terminal_snr(alphas_bar)
    sigmas = torch.sqrt((1 - alphas_bar) / alphas_bar).clamp(max=SIGMA_PURE_NOISE)
    return DiscreteLevels(
        knots=torch.cat([sigmas.new_zeros(1), sigmas]),
        spacing=spacing,
        offset=int(config.get("steps_offset", 0)),
        distilled=int(config.get("original_inference_steps", 50)),
    )


def log_snr(sigma: Tensor) -> Tensor:
    """The log-SNR −2·ln σ of a level σ, in nats; +∞ at σ = 0."""
    return -2 * torch.log(sigma)


def to_sigma(value: Tensor, unit: Unit, levels: Levels) -> Tensor:
    """The level σ (float64) of a level in any unit, clamped to the model's range, from 0 to its largest."""
    if unit == "fraction":
        return levels.sigma(value)
    sigma = value.double() if unit == "sigma" else torch.exp(-value.double() / 2)
    return sigma.clamp(min=0).minimum(levels.sigma(torch.ones_like(sigma)))


def from_sigma(sigma: Tensor, unit: Unit, levels: Levels) -> Tensor:
    """The level in any unit (float64) of a level σ; inverse of `to_sigma` inside the model's range."""
    if unit == "fraction":
        return levels.fraction(sigma)
    return sigma.double() if unit == "sigma" else log_snr(sigma.double())


def grid(levels: Levels, start: Tensor, steps: int, spacing: Spacing | None = None) -> Tensor:
    """Descending σ from `start` to 0 in `steps` steps, one row per element of `start`.

    `start`: σ, float `[B]`. Returns float64 `[B, steps+1]`; with `steps` = 0, just the start. `None` is the
    model's own spacing. Each is that of diffusers, with p, the start in levels, in the place of T:

    trailing   p, p − p/n, p − 2p/n …
    linspace   from p to level 0
    leading    whole strides ⌊p/n⌋ up from level 0 + `offset` (p/n where that is less than 1). It begins about
               one stride *below* the start, as diffusers' img2img does
    karras     linear in σ^(1/7) from the start to level 0 (2206.00364, eq. 5); not for pure noise
    consistency  n of the `distilled` levels that the model has seen, evenly chosen from the highest that is not
               above the start (LCM, 2310.04378, section 4.3); trailing where there are fewer than n

    All but `leading` and `consistency` begin exactly at the start: noise the image to `grid(…)[:, 0]`. For p = T
    these are the levels of diffusers, with four exceptions. It rounds trailing grids to whole levels (DDIM and
    DDPM linspace, too): visible where n does not divide T. Its linspace of one step is level 0. Its DPM-Solver
    spreads leading and linspace over n+1 levels and leaves out the last. Its flow matching is a linspace that
    ends at a level 0 shifted twice.
    """
    first = start.double()[:, None]
    if steps == 0:
        return first
    spacing = spacing or levels.spacing
    i = torch.arange(steps, dtype=torch.float64, device=start.device)
    ramp = i / max(steps - 1, 1)
    p = levels.fraction(first) * levels.steps
    level_0 = torch.ones_like(p)
    if spacing == "trailing":
        sigmas = levels.sigma(p * (steps - i) / steps / levels.steps)
    elif spacing == "linspace":
        sigmas = levels.sigma((p + (level_0.minimum(p) - p) * ramp) / levels.steps)
    elif spacing == "leading":
        stride = torch.floor(p / steps + 1e-4)  # float32 starts are off by 1e-5
        stride = torch.where(stride > 0, stride, p / steps)
        sigmas = levels.sigma((level_0 + levels.offset + stride * i.flip(0)) / levels.steps)
    elif spacing == "karras":
        high, low = first ** (1 / 7), levels.sigma(level_0 / levels.steps).minimum(first) ** (1 / 7)
        sigmas = (high + (low - high) * ramp) ** 7
    elif spacing == "consistency":
        apart = max(levels.steps // levels.distilled, 1)
        seen = torch.floor(p / apart + 1e-4)
        chosen = apart * (seen - torch.floor(i * (seen / steps)))
        sigmas = levels.sigma(torch.where(seen >= steps, chosen, p * (steps - i) / steps) / levels.steps)
    else:
        raise ValueError(f"spacing is {spacing!r}: known are {', '.join(get_args(Spacing))}")
    sigmas = sigmas.minimum(first)
    begin = sigmas[:, :1] if spacing in ("leading", "consistency") else first
    return torch.cat([begin, sigmas[:, 1:], torch.zeros_like(first)], dim=1)


def _spacing(config: Mapping[str, Any]) -> Spacing:
    if "original_inference_steps" in config:
        return "consistency"
    if config.get("use_karras_sigmas"):
        return "karras"
    spacing = config.get("timestep_spacing", "trailing")
    if spacing not in ("leading", "trailing", "linspace"):
        known = "leading, linspace, trailing"
        raise ValueError(f"scheduler option timestep_spacing is {spacing!r}: known are {known}")
    return spacing


def _flow_shift(config: Mapping[str, Any], image_tokens: int | None) -> float:
    """The stated shift; with dynamic shifting e^μ or μ, which is linear in the number of tokens (Flux, SD 3.5)."""
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", config.get("flow_shift", 1.0)))
    if image_tokens is None:
        raise ValueError("scheduler option use_dynamic_shifting is True: the image size it depends on is not known")
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = float(low + (high - low) * (image_tokens - few) / (many - few))
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise ValueError(f"scheduler option time_shift_type is {kind!r}: known are exponential, linear")
    return math.exp(mu) if kind == "exponential" else mu


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
