"""Whole trajectories against the schedulers of diffusers, every intermediate point, in true float64.

Both sides call the same small nonlinear network on what a pixel model would give it: `levels.scale`,
`levels.timestep`, `to_x0` here, `scale_model_input` and the scheduler's own timesteps there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, Prediction, bounded, dynamic_threshold, per_row, to_x0
from pipeline.diffusion.levels import DiscreteLevels, Levels, Spacing, grid, levels_from_scheduler
from pipeline.diffusion.solvers import SOLVERS, Ancestral, Noise, Past, Solver, integrate

F64 = torch.float64
SHAPE = (2, 2, 2, 3)
TOLERANCE = 1e-9
"""Relative, of every point."""
ZERO_SNR_TOLERANCE = 1e-6
"""σ = 1e8 is our infinity: the signal of the first point is off by 1e-8."""


@pytest.fixture(autouse=True)
def _schedulers_in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside a test, float32 *is* float64: the schedulers name float32 in their tables, grids and casts.

    This changes their precision and nothing else. Nothing in `pipeline.diffusion` names float32.
    """
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(np, "float32", np.float64)
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float)


@dataclass(frozen=True)
class Sampler:
    """A scheduler with its options, and the solver that should be the same."""

    scheduler: type[Any]
    solver: Solver
    options: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    noise_argument: bool = False
    """Takes the noise of a step as `variance_noise`; else it draws it by `randn_tensor`."""


SAMPLERS = {
    "ddim": Sampler(DDIMScheduler, SOLVERS["euler"], {"clip_sample": False}),
    "ddim_half": Sampler(DDIMScheduler, Ancestral(eta=0.5), {"clip_sample": False}, {"eta": 0.5}, True),
    "ddim_full": Sampler(DDIMScheduler, Ancestral(eta=1.0), {"clip_sample": False}, {"eta": 1.0}, True),
    "ddpm": Sampler(DDPMScheduler, SOLVERS["ancestral"], {"clip_sample": False}),
    "euler": Sampler(EulerDiscreteScheduler, SOLVERS["euler"]),
    "heun": Sampler(HeunDiscreteScheduler, SOLVERS["heun"]),
    "dpmpp": Sampler(DPMSolverMultistepScheduler, SOLVERS["dpmpp_2m"]),
    "dpmpp_sde": Sampler(
        DPMSolverMultistepScheduler, SOLVERS["dpmpp_2m_sde"], {"algorithm_type": "sde-dpmsolver++"}, {}, True
    ),
}
BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid", "beta_start": 1e-4, "beta_end": 0.02},
    "zero_snr": {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
}
STEPS: dict[Spacing, int] = {"trailing": 10, "leading": 7, "linspace": 10, "karras": 8}
"""Counts at which diffusers has no level to round: 10 divides T, 9 divides T − 1, leading never does."""


def has(sampler: str, betas: str, spacing: Spacing, prediction: Prediction) -> bool:
    """What diffusers offers, less what it defines by 0/0 or walks in another way."""
    if betas == "sigmoid" and sampler != "ddpm":
        return False
    if betas == "zero_snr" and (sampler == "heun" or prediction == "epsilon"):
        return False
    if spacing == "karras":
        return sampler in ("euler", "heun", "dpmpp", "dpmpp_sde") and betas != "zero_snr"
    # DDIM steps from t to t − T//n, which is not its own next timestep on a linspace grid
    return not (spacing == "linspace" and sampler.startswith("ddim"))


CASES = [
    pytest.param(sampler, betas, spacing, prediction, id=f"{sampler}-{betas}-{spacing}-{prediction}")
    for sampler in SAMPLERS
    for betas in BETAS
    for spacing in STEPS
    for prediction in ("epsilon", "v_prediction", "sample")
    if has(sampler, betas, spacing, prediction)
]


def network(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear in x and t, mixing all coordinates of a sample; `t` a number or `[B]`."""
    features = torch.arange(x[0].numel(), dtype=F64)
    mix = torch.sin(features[:, None] * 1.7 + features * 0.9) * 0.6
    when = torch.sin(torch.as_tensor(t, dtype=F64).reshape(-1, 1) / 90 + features)
    return (torch.tanh(x.flatten(1) @ mix + when) + 0.3 * when).reshape(x.shape)


def model(levels: Levels, prediction: Prediction) -> Denoiser:
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        output = network(x * per_row(levels.scale(sigma), x), levels.timestep(sigma))
        return to_x0(output, x, sigma, prediction)

    return denoise


def ours(denoiser: Denoiser, x: Tensor, sigmas: Tensor, solver: Solver, noise: Tensor) -> list[Tensor]:
    """The points after every step, in σ-space."""
    points: list[Tensor] = []

    def recorded(
        denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Noise, past: Past | None
    ) -> tuple[Tensor, Tensor]:
        x, x0 = solver(denoiser, x, sigma, sigma_next, noise, past)
        points.append(x)
        return x, x0

    draws = iter(noise)
    integrate(denoiser, x, sigmas, solver=recorded, noise=lambda like: next(draws))
    return points


def theirs(scheduler: Any, x: Tensor, sampler: Sampler, noise: Tensor, timesteps: Tensor, **step: Any) -> list[Tensor]:
    """The points after every step, in the scheduler's own space; the network is given `timesteps`."""
    points, draws = [], iter(noise)
    with patch.object(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(draws)):
        for t, embedded in zip(scheduler.timesteps, timesteps, strict=True):
            given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            if sampler.noise_argument:
                step = {**step, "variance_noise": next(draws)}
            x = scheduler.step(network(given, embedded), t, x, **step, return_dict=False)[0]
            points.append(x)
    if isinstance(scheduler, HeunDiscreteScheduler):  # predictor, corrector, …, and a last predictor
        points = [*points[1::2], points[-1]]
    return points


def assert_same(mine: list[Tensor], other: list[Tensor], tolerance: float) -> None:
    assert len(mine) == len(other)
    for step, (a, b) in enumerate(zip(mine, other, strict=True)):
        error = ((a - b).norm() / b.norm()).item()
        assert error <= tolerance, f"step {step}: {error:.1e}"


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=F64)


def build(sampler: Sampler, betas: str, spacing: Spacing, **options: Any) -> tuple[Any, Levels]:
    config = {**sampler.options, **BETAS[betas], **options}
    config |= {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
    scheduler = sampler.scheduler(**config)
    levels = levels_from_scheduler(scheduler.config)
    if betas == "zero_snr" and not isinstance(scheduler, DDIMScheduler | DDPMScheduler):
        # Euler and DPM-Solver put √(2²⁴ − 1) in the place of σ = ∞, DDIM and DDPM don't
        assert isinstance(levels, DiscreteLevels)
        knots = levels.knots.clone()
        knots[-1] = (2**24 - 1) ** 0.5
        levels = replace(levels, knots=knots)
    return scheduler, levels


def in_sigma_space(scheduler: Any) -> bool:
    return isinstance(scheduler, EulerDiscreteScheduler | HeunDiscreteScheduler)


def whole_grid(scheduler: Any, levels: Levels, steps: int) -> Tensor:
    """`grid` from the noisiest level; DPM-Solver divides by n + 1 and leaves out the last level."""
    start = levels.sigma(torch.ones(1, dtype=F64))
    if isinstance(scheduler, DPMSolverMultistepScheduler) and levels.spacing in ("leading", "linspace"):
        sigmas = grid(levels, start, steps + 1)
        return torch.cat([sigmas[:, :-2], sigmas[:, -1:]], dim=1)
    return grid(levels, start, steps)


@pytest.mark.parametrize(("name", "betas", "spacing", "prediction"), CASES)
def test_trajectory(name: str, betas: str, spacing: Spacing, prediction: Prediction) -> None:
    sampler = SAMPLERS[name]
    scheduler, levels = build(sampler, betas, spacing, prediction_type=prediction)
    steps = 9 if name.startswith("dpm") and spacing == "linspace" else STEPS[spacing]
    scheduler.set_timesteps(steps)
    compare(sampler, scheduler, levels, prediction, whole_grid(scheduler, levels, steps))


def compare(
    sampler: Sampler,
    scheduler: Any,
    levels: Levels,
    prediction: Prediction,
    sigmas: Tensor,
    variation: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser,
) -> list[Tensor]:
    """Asserts that all points agree; returns them."""
    noise = draw(len(sigmas[0]), *SHAPE)
    sigmas = sigmas.expand(SHAPE[0], -1)
    x = 0.5 * draw(*SHAPE) + per_row(sigmas[:, 0], noise[0]) * noise[0]
    denoiser = variation(model(levels, prediction))
    mine = ours(denoiser, x, sigmas, sampler.solver, noise[1:])
    if not in_sigma_space(scheduler):
        x = x * per_row(levels.scale(sigmas[:, 0]), x)
        mine = [p * per_row(levels.scale(s), p) for p, s in zip(mine, sigmas.T[1:], strict=True)]
    timesteps = scheduler.timesteps
    if levels.spacing == "karras" or scheduler.config.get("use_flow_sigmas"):
        # their t is rounded or linear in ln σ: give both networks ours (see test_timesteps_of_karras_grids)
        timesteps = levels.timestep(sigmas[0, :-1])
        if isinstance(scheduler, HeunDiscreteScheduler):
            timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
    other = theirs(scheduler, x, sampler, noise[1:], timesteps, **sampler.step)
    zero_snr = bool(scheduler.config.get("rescale_betas_zero_snr"))
    assert_same(mine, other, ZERO_SNR_TOLERANCE if zero_snr else TOLERANCE)
    return mine


# --- flow matching ---

FLOW = Sampler(FlowMatchEulerDiscreteScheduler, SOLVERS["euler"])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_trajectory(shift: float) -> None:
    """The trailing grid, 1 … 1/n before the shift, as pipelines give it to `set_timesteps`."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=(1 - np.arange(10) / 10).tolist())
    levels = levels_from_scheduler(scheduler.config)
    # pure noise is σ = 1e8 here: the first estimate differs by 1e-8
    sigmas = whole_grid(scheduler, levels, 10)
    s = sigmas[0] / (1 + sigmas[0])
    torch.testing.assert_close(s, scheduler.sigmas, rtol=0, atol=1.1e-8)
    scheduler.sigmas, scheduler.timesteps = s, s[:-1] * 1000
    compare(FLOW, scheduler, levels, "flow", sigmas)


def test_flow_linspace_grid() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(13)
    levels = levels_from_scheduler({**scheduler.config, "timestep_spacing": "linspace"})
    sigmas = whole_grid(scheduler, levels, 13)[0]
    torch.testing.assert_close(sigmas / (1 + sigmas), scheduler.sigmas, rtol=0, atol=1.1e-8)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", ["dpmpp", "dpmpp_sde"])
def test_flow_by_dpm_solver(name: str, shift: float) -> None:
    """DPM-Solver on flow levels starts one level below pure noise."""
    sampler = SAMPLERS[name]
    scheduler = sampler.scheduler(
        **sampler.options, use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(10)
    levels = levels_from_scheduler(scheduler.config)
    sigmas = grid(levels, levels.sigma(torch.tensor([0.999], dtype=F64)), 10, "trailing")
    torch.testing.assert_close(sigmas[0] / (1 + sigmas[0]), scheduler.sigmas)
    compare(sampler, scheduler, levels, "flow", sigmas)


# --- clipping and thresholding ---


def clipped(limit: float) -> Callable[[Denoiser], Denoiser]:
    return lambda denoiser: bounded(denoiser, lambda x0: x0.clamp(-limit, limit))


CLIPPING = [
    ("ddpm", {"clip_sample": True, "clip_sample_range": 0.8}, {}, clipped(0.8)),
    ("heun", {"clip_sample": True, "clip_sample_range": 0.8}, {}, clipped(0.8)),
    ("ddim", {"clip_sample": True}, {"use_clipped_model_output": True}, clipped(1.0)),
    *(
        (name, {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.8}, step,
         lambda d: bounded(d, lambda x0: dynamic_threshold(x0, 0.8, 1.5)))
        for name, step in (
            ("ddpm", {}), ("ddim", {"use_clipped_model_output": True}), ("dpmpp", {}), ("dpmpp_sde", {})
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "step", "variation"), CLIPPING)
def test_clipped_trajectory(
    name: str, options: dict[str, Any], step: dict[str, Any], variation: Callable[[Denoiser], Denoiser]
) -> None:
    sampler = replace(SAMPLERS[name], options={**SAMPLERS[name].options, **options}, step=step)
    scheduler, levels = build(sampler, "scaled_linear", "trailing")
    scheduler.set_timesteps(10)
    sigmas = whole_grid(scheduler, levels, 10)
    clipped = compare(sampler, scheduler, levels, "epsilon", sigmas, variation)
    scheduler.set_timesteps(10)
    with pytest.raises(AssertionError, match="step"):  # it bites
        compare(sampler, scheduler, levels, "epsilon", sigmas)
    assert clipped[-1].abs().max() <= 1


def test_dynamic_threshold_is_threshold_sample() -> None:
    x0 = draw(6, 3, 4, 5) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 9.0]).reshape(-1, 1, 1, 1)
    scheduler = DDPMScheduler(thresholding=True, sample_max_value=3.0, dynamic_thresholding_ratio=0.9)
    ours = dynamic_threshold(x0, 0.9, 3.0)
    torch.testing.assert_close(ours, scheduler._threshold_sample(x0), rtol=0, atol=0)
    assert torch.equal(ours[0], x0[0])
    unlimited = dynamic_threshold(x0, 1.0)
    torch.testing.assert_close(unlimited[5], x0[5] / x0[5].abs().max())


# --- tables and grids ---


@pytest.mark.parametrize("betas", BETAS)
def test_tables(betas: str) -> None:
    scheduler = DDPMScheduler(**BETAS[betas])
    alphas_bar = 1 / (1 + levels_from_scheduler(scheduler.config).knots[1:] ** 2)  # type: ignore[attr-defined]
    torch.testing.assert_close(alphas_bar, scheduler.alphas_cumprod, rtol=1e-9, atol=1.1e-16)


def test_table_of_trained_betas() -> None:
    scheduler = DDPMScheduler(trained_betas=np.array([0.1, 0.02, 0.3]), num_train_timesteps=3)
    levels = levels_from_scheduler(scheduler.config)
    alphas_bar = 1 / (1 + levels.sigma(torch.tensor([1 / 3, 2 / 3, 1.0])) ** 2)
    torch.testing.assert_close(alphas_bar, scheduler.alphas_cumprod)


def has_grid(name: str, spacing: Spacing, steps: int) -> bool:
    if spacing == "karras" and name in ("ddim", "ddpm"):
        return False
    if name == "dpmpp":  # leading and linspace want n + 1 levels
        return steps < 1000 or spacing in ("trailing", "karras")
    # their linspace of one step is level 0, and Karras goes by it
    return steps > 1 or spacing in ("leading", "trailing")


GRIDS = [
    (name, spacing, steps)
    for name in ("ddim", "ddpm", "euler", "heun", "dpmpp")
    for spacing in STEPS
    for steps in (1, 2, 3, 7, 10, 50, 333, 501, 999, 1000)
    if has_grid(name, spacing, steps)
]


@pytest.mark.parametrize(("name", "spacing", "steps"), GRIDS)
def test_grid_is_that_of_set_timesteps(name: str, spacing: Spacing, steps: int) -> None:
    """Exactly where diffusers does not round, within half a level where it does."""
    for offset in (0, 1) if spacing == "leading" else (0,):
        scheduler, levels = build(SAMPLERS[name], "scaled_linear", spacing, steps_offset=offset)
        scheduler.set_timesteps(steps)
        mine = whole_grid(scheduler, levels, steps)[0]
        t = scheduler.timesteps
        if name == "heun":  # every one but the first twice
            t = torch.cat([t[:1], t[1::2]])
        assert len(t) == steps == len(mine) - 1
        if spacing == "karras":
            theirs = scheduler.sigmas
            theirs = torch.cat([theirs[:1], theirs[1::2]]) if name == "heun" else theirs
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=0)
            continue
        rounds = spacing == "trailing" or (spacing == "linspace" and name not in ("euler", "heun"))
        apart = (levels.timestep(mine[:-1]) - t.clamp(max=999)).abs().max().item()
        divides = 1000 % steps == 0 if spacing == "trailing" else (steps > 1 and 999 % (steps - 1) == 0)
        assert apart <= 1e-9 + (0.5 if rounds and (name == "dpmpp" or not divides) else 0)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp"])
def test_timesteps_of_karras_grids(name: str) -> None:
    """Our t is linear in σ between levels, as everywhere; theirs in ln σ, and rounded in DPM-Solver."""
    scheduler, levels = build(SAMPLERS[name], "scaled_linear", "karras")
    scheduler.set_timesteps(30)
    t = scheduler.timesteps
    t = torch.cat([t[:1], t[1::2]]) if name == "heun" else t
    apart = (levels.timestep(whole_grid(scheduler, levels, 30)[0, :-1]) - t).abs()
    assert apart.max() < (0.5 if name == "dpmpp" else 0.05)
