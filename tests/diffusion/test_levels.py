"""Levels: one fact in three units, tables of diffusers' names, and grids."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.levels import (
    SIGMA_PURE_NOISE,
    FlowLevels,
    Levels,
    Spacing,
    Unit,
    from_sigma,
    grid,
    levels_from_scheduler,
    log_snr,
    to_sigma,
)

F64 = torch.float64
CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "stable_diffusion": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "zero_snr": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
    "trained": {"trained_betas": [0.1, 0.05, 0.3, 0.7, 0.2]},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    "flow_shift_3": {"shift": 3.0},
    "flow_shift_odd": {"use_flow_sigmas": True, "flow_shift": 1.15},
}
LEVELS = {name: levels_from_scheduler(config) for name, config in CONFIGS.items()}
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
BELOW_THE_START = ("leading", "consistency")

every_table = pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
every_spacing = pytest.mark.parametrize("spacing", SPACINGS)
fractions = st.one_of(st.floats(0, 0.999999), st.just(1.0))


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def largest(levels: Levels) -> Tensor:
    return levels.sigma(at(1.0))


# --- units ---


@every_table
@given(u=fractions)
def test_fraction_to_sigma_and_back(levels: Levels, u: float) -> None:
    assert levels.fraction(levels.sigma(at(u))).item() == pytest.approx(u, abs=1e-9)


@every_table
@given(u=fractions, unit=st.sampled_from(get_args(Unit)))
def test_sigma_to_any_unit_and_back(levels: Levels, u: float, unit: Unit) -> None:
    sigma = levels.sigma(at(u))
    there = from_sigma(sigma, unit, levels)
    assert to_sigma(there, unit, levels).item() == pytest.approx(sigma.item(), rel=1e-6, abs=1e-300)


@every_table
def test_sigma_rises_from_0_and_timesteps_count_the_levels(levels: Levels) -> None:
    whole = levels.sigma(torch.arange(levels.steps + 1, dtype=F64) / levels.steps)
    assert whole[0] == 0
    assert (whole.diff() > 0).all()
    assert torch.isfinite(whole).all()
    if isinstance(levels, FlowLevels):
        expected = whole / (1 + whole) * levels.steps  # s·T, the shifted time
    else:
        expected = torch.arange(levels.steps + 1, dtype=F64).sub(1).clamp(min=0)
    torch.testing.assert_close(levels.timestep(whole), expected, rtol=1e-9, atol=1e-9)


@every_table
def test_scale_keeps_the_model_variance_or_the_straight_line(levels: Levels) -> None:
    """c² + (c·σ)² = 1 for variance preserving levels, c + c·σ = 1 for flow."""
    sigma = levels.sigma(torch.linspace(0, 1, 50, dtype=F64))
    c, power = levels.scale(sigma), 1 if isinstance(levels, FlowLevels) else 2
    torch.testing.assert_close(c**power + (c * sigma) ** power, torch.ones_like(c))


@pytest.mark.parametrize(
    ("name", "snr"),
    [
        ("stable_diffusion", {0.2: 3.09, 0.4: 0.742, 0.5: 0.384, 0.8: 0.039}),
        ("linear", {0.2: 1.93, 0.4: 0.242, 0.5: 0.085, 0.8: 0.0015}),
        ("cosine", {0.2: 8.87, 0.4: 1.84, 0.5: 0.976, 0.8: 0.104}),
        ("flow", {0.2: 16.0, 0.4: 2.25, 0.5: 1.0, 0.8: 0.063}),
    ],
)
def test_t_boom_does_not_transfer_between_schedules(name: str, snr: dict[float, float]) -> None:
    """The same t/T is another signal-to-noise ratio in every schedule (the table in methods.md)."""
    u, expected = torch.tensor(list(snr), dtype=F64), torch.tensor(list(snr.values()), dtype=F64)
    digits = torch.tensor([float(f"1e-{len(str(value).split('.')[1])}") for value in snr.values()], dtype=F64)
    measured = torch.exp(log_snr(LEVELS[name].sigma(u)))
    assert ((measured - expected).abs() <= 0.51 * digits).all(), measured


def test_units_are_clamped_to_the_range_of_the_model() -> None:
    levels = LEVELS["linear"]
    assert to_sigma(at(-3), "sigma", levels) == 0
    assert to_sigma(at(float("inf")), "log_snr", levels) == 0
    assert log_snr(at(0)) == float("inf")
    for value, unit in ((1e9, "sigma"), (-1e9, "log_snr"), (2.0, "fraction")):
        assert to_sigma(at(value), unit, levels) == largest(levels)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["zero_snr", "flow", "flow_shift_3", "flow_shift_odd"])
def test_pure_noise_is_finite_and_exactly_the_last_level(name: str) -> None:
    levels = LEVELS[name]
    assert largest(levels) == SIGMA_PURE_NOISE
    assert levels.fraction(largest(levels)) == 1
    first = grid(levels, largest(levels)[None], 1000, "trailing")[0]
    assert first[0] == SIGMA_PURE_NOISE
    torch.testing.assert_close(first[1], levels.sigma(at(0.999)), rtol=1e-6, atol=0)


# --- what a configuration says ---


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"beta_schedule": "laplace"}, ["beta_schedule", "laplace", "scaled_linear", "squaredcos_cap_v2"]),
        ({"timestep_spacing": "cosine"}, ["timestep_spacing", "cosine", "leading", "trailing", "linspace"]),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, ["dynamic"]),
        ({"shift": 1.0, "use_dynamic_shifting": True}, ["dynamic", "image size"]),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.02}, ["shift_terminal"]),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, ["sigma_data"]),
    ],
)
def test_unknown_options_are_named(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match="scheduler option") as caught:
        levels_from_scheduler(config)
    assert all(word in str(caught.value) for word in words), caught.value


def test_unknown_kind_of_dynamic_shift_is_named() -> None:
    config = {"shift": 3.0, "use_dynamic_shifting": True, "time_shift_type": "cubic"}
    with pytest.raises(ValueError, match=r"time_shift_type is 'cubic': known are exponential, linear"):
        levels_from_scheduler(config, image_tokens=256)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("constants", [{}, {"base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 100}])
@pytest.mark.parametrize("image_tokens", [96, 256, 1000, 4096, 9216])
def test_a_dynamic_shift_is_that_of_diffusers(kind: Any, constants: dict[str, Any], image_tokens: int) -> None:
    """The levels of the trailing grid, as the pipelines of Flux and SD 3.5 ask their scheduler for them."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, time_shift_type=kind, **constants)
    keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(image_tokens, *(scheduler.config[key] for key in keys))
    scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)], mu=mu)
    levels = levels_from_scheduler(scheduler.config, image_tokens=image_tokens)
    sigmas = grid(levels, largest(levels)[None], 10)[0]
    torch.testing.assert_close((sigmas / (1 + sigmas)).float(), scheduler.sigmas)
    torch.testing.assert_close(levels.timestep(sigmas[:-1]).float(), scheduler.timesteps)


def test_a_fixed_shift_is_the_same_at_all_sizes() -> None:
    assert levels_from_scheduler(CONFIGS["flow_shift_3"], image_tokens=4096) == LEVELS["flow_shift_3"]


def test_unknown_spacing_of_a_grid_is_named() -> None:
    with pytest.raises(ValueError, match=r"karas.*trailing, leading, linspace, karras"):
        grid(LEVELS["linear"], torch.ones(1), 3, "karas")  # type: ignore[arg-type]


def test_the_spacing_of_the_model_is_the_default() -> None:
    start = torch.tensor([5.0])
    for config, expected in (
        ({}, "trailing"),
        ({"timestep_spacing": "leading", "steps_offset": 1}, "leading"),
        ({"timestep_spacing": "leading", "use_karras_sigmas": True}, "karras"),
    ):
        levels = levels_from_scheduler(config)
        assert levels.spacing == expected
        assert torch.equal(grid(levels, start, 7), grid(levels, start, 7, expected))
    assert levels_from_scheduler({"steps_offset": 1}).offset == 1


# --- grids ---


@every_table
@given(data=st.data(), steps=st.integers(0, 12), spacing=st.sampled_from(SPACINGS))
def test_grids(levels: Levels, data: st.DataObject, steps: int, spacing: Spacing) -> None:
    """From the start to 0, never rising, of finite numbers, and every row as if it were alone."""
    u = data.draw(st.lists(fractions, min_size=1, max_size=4))
    start = levels.sigma(torch.tensor(u, dtype=F64))
    sigmas = grid(levels, start, steps, spacing)
    assert sigmas.shape == (len(u), steps + 1)
    assert sigmas.dtype == F64
    assert torch.isfinite(sigmas).all()
    assert (sigmas.diff(dim=1) <= 0).all()
    if steps:
        assert (sigmas[:, -1] == 0).all()
    if spacing not in BELOW_THE_START or steps == 0:
        assert torch.equal(sigmas[:, 0], start)
    assert (sigmas <= start[:, None]).all()
    for row, alone in zip(sigmas, start, strict=True):  # torch's x**y may differ in the last bit
        torch.testing.assert_close(row, grid(levels, alone[None], steps, spacing)[0], rtol=1e-14, atol=0)


@every_table
@every_spacing
def test_grids_of_0_1_and_2_steps(levels: Levels, spacing: Spacing) -> None:
    start = levels.sigma(torch.tensor([0.0, 0.8], dtype=F64))
    none, one, two = (grid(levels, start, steps, spacing) for steps in (0, 1, 2))
    assert torch.equal(none, start[:, None])
    if spacing not in BELOW_THE_START:
        assert torch.equal(one, torch.stack([start, 0 * start], dim=1))
    assert (two[1].diff() < 0).all()
    assert (two[0] == 0).all()


@every_spacing
def test_a_grid_descends_strictly_where_there_is_a_level_for_each_step(spacing: Spacing) -> None:
    start = LEVELS["stable_diffusion"].sigma(torch.tensor([0.05, 0.4, 1.0], dtype=F64))
    assert (grid(LEVELS["stable_diffusion"], start, 50, spacing).diff(dim=1) < 0).all()


@every_spacing
@pytest.mark.parametrize("name", ["stable_diffusion", "flow"])
def test_a_start_in_float32_gives_the_same_grid(name: str, spacing: Spacing) -> None:
    levels = LEVELS[name]
    for steps in (1, 2, 7, 200):
        start = levels.sigma(torch.arange(1, 1000, 7, dtype=F64) / 1000)
        exact, single = (grid(levels, s, steps, spacing) for s in (start, start.float()))
        torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-6)


def test_leading_with_fewer_levels_than_steps_takes_fractions_of_a_level() -> None:
    start = LEVELS["linear"].sigma(at(0.05))[None]
    i = torch.arange(80, dtype=F64).flip(0)
    expected = LEVELS["linear"].sigma((1 + i * 50 / 80) / 1000).minimum(start)
    torch.testing.assert_close(grid(LEVELS["linear"], start, 80, "leading")[0, :-1], expected)


def test_a_start_above_the_table_is_kept() -> None:
    """The image is at this σ, whatever the model has seen: the first step must know it."""
    sigmas = grid(LEVELS["linear"], torch.tensor([500.0]), 4)
    assert sigmas[0, 0] == 500
    assert sigmas[0, 1] == LEVELS["linear"].sigma(at(0.75))


@every_table
@every_spacing
def test_everything_stays_on_the_device_of_sigma(levels: Levels, spacing: Spacing) -> None:
    """On `meta`, where mixing with a CPU tensor or asking for a value raises."""
    there = levels.to("meta")
    start = torch.ones(3, dtype=F64, device="meta")
    results = [f(start) for f in (there.sigma, there.fraction, there.timestep, there.scale)]
    results += [f(start, unit, there) for f in (to_sigma, from_sigma) for unit in get_args(Unit)]
    for tensor in [*results, grid(there, start, 5, spacing)]:
        assert tensor.device.type == "meta"
        assert tensor.dtype == F64
    assert (there.steps, there.spacing, there.offset) == (levels.steps, levels.spacing, levels.offset)
    assert torch.equal(levels.to("cpu").sigma(at(0.3)), levels.sigma(at(0.3)))


def test_a_transposed_schedule_gives_no_warning() -> None:
    sigmas = grid(LEVELS["linear"], torch.tensor([3.0, 4.0]), 4).T
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LEVELS["linear"].timestep(sigmas)
    finally:
        torch.set_warn_always(False)


# --- the grid of consistency models ---


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.33])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 12])
@pytest.mark.parametrize("distilled", [50, 100, 37])
def test_a_consistency_grid_is_that_of_the_lcm_scheduler(distilled: int, steps: int, strength: float) -> None:
    scheduler = LCMScheduler(original_inference_steps=distilled)
    scheduler.set_timesteps(steps, strength=strength)
    levels = levels_from_scheduler(scheduler.config)
    assert (levels.spacing, levels.distilled) == ("consistency", distilled)
    # of 37 levels, 27 apart, the highest is 999: a fraction of T is not a fraction of them
    top = strength * distilled * (1000 // distilled) / 1000
    sigmas = grid(levels, levels.sigma(at(top))[None], steps)[0]
    torch.testing.assert_close(levels.timestep(sigmas[:-1]), scheduler.timesteps.double(), rtol=0, atol=1e-8)


def test_a_consistency_grid_begins_at_a_level_that_was_seen_or_is_trailing() -> None:
    start = LEVELS["stable_diffusion"].sigma(torch.tensor([0.05, 0.71], dtype=F64))  # 2 levels, 35 levels
    sigmas, trailing = (grid(LEVELS["stable_diffusion"], start, 4, spacing) for spacing in ("consistency", "trailing"))
    assert torch.equal(sigmas[0], trailing[0])
    whole = LEVELS["stable_diffusion"].timestep(sigmas[1, :-1]) + 1
    torch.testing.assert_close(whole, torch.tensor([700, 540, 360, 180], dtype=F64))
