"""Laws of the loop and its solvers, on models whose denoiser and flow are known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pipeline.diffusion.denoisers import Denoiser, to_x0
from pipeline.diffusion.levels import SIGMA_PURE_NOISE, FlowLevels, grid
from pipeline.diffusion.solvers import SOLVERS, Ancestral, Noise, Solver, add_noise, integrate
from pipeline.models.gaussian import Gaussian, GaussianMixture

F64 = torch.float64
MEAN, STD = 0.3, 0.5
MODEL = Gaussian(mean=MEAN, std=STD)
STOCHASTIC = ["ancestral", "dpmpp_2m_sde"]

every_solver = pytest.mark.parametrize("name", SOLVERS)


def points(count: int = 41) -> Tensor:
    return torch.linspace(-2, 2, count, dtype=F64)[:, None]


def ladder(high: float, low: float, steps: int) -> Tensor:
    """`[steps+1]`, linear in σ^(1/7): smooth, so that orders of convergence show."""
    return torch.linspace(high ** (1 / 7), low ** (1 / 7), steps + 1, dtype=F64) ** 7


def rows(schedule: Tensor, count: int) -> Tensor:
    return schedule.expand(count, -1)


def replay(draws: Iterable[Tensor]) -> Noise:
    """Noise that returns the given tensors, one a step."""
    waiting = iter(draws)
    return lambda like: next(waiting).to(like)


def at(value: float) -> Tensor:
    return torch.tensor([value], dtype=F64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- deterministic solvers against the exact flow ---


@pytest.mark.parametrize(("name", "order"), [("euler", 1.0), ("heun", 2.0), ("dpmpp_2m", 2.0)])
@pytest.mark.parametrize("way", ["down", "up"])
def test_order_of_convergence(name: str, order: float, way: str) -> None:
    x, errors = points(), []
    for steps in (40, 80, 160, 320):
        schedule = ladder(5, 0.02, steps) if way == "down" else ladder(0.02, 5, steps)
        sigmas = rows(schedule, len(x))
        exact = MODEL.flow(x, sigmas[:, 0], sigmas[:, -1])
        errors.append(float((integrate(MODEL, x, sigmas, solver=SOLVERS[name]) - exact).abs().max()))
    measured = torch.tensor(errors[:-1]).div(torch.tensor(errors[1:])).log2()
    torch.testing.assert_close(measured[-1].item(), order, atol=0.1, rtol=0)
    assert measured.sub(order).abs().max() < 0.25, measured


def test_flow_solves_the_probability_flow_ode() -> None:
    """dx/dσ = (x − D(x, σ))/σ by central differences, and two legs compose."""
    x, start = points(), torch.full((41,), 0.8, dtype=F64)
    h = 1e-5
    slope = (MODEL.flow(x, start, start + h) - MODEL.flow(x, start, start - h)) / (2 * h)
    torch.testing.assert_close(slope, (x - MODEL(x, start)) / 0.8, atol=1e-9, rtol=1e-8)
    halfway = MODEL.flow(x, start, start * 3)
    torch.testing.assert_close(MODEL.flow(halfway, start * 3, start * 0), MODEL.flow(x, start, start * 0))


@pytest.mark.parametrize(("steps", "expected"), [(20, 5e-4), (40, 6e-5), (80, 7e-6)])
def test_round_trip_up_and_down_with_heun(steps: int, expected: float) -> None:
    x, down = points(), rows(ladder(3, 0.1, steps), 41)
    up = integrate(MODEL, x, down.flip(1), solver=SOLVERS["heun"])
    error = (integrate(MODEL, up, down, solver=SOLVERS["heun"]) - x).abs().max().item()
    assert error == pytest.approx(expected, rel=0.1)


def test_ddib_between_gaussians_is_the_affine_map() -> None:
    """Up with the source, down with the target: μ_b + (s_b/s_a)·(x − μ_a), from far up."""
    source, target = MODEL, Gaussian(mean=-1.0, std=0.2)
    x, top = points(), 2000.0
    latent = integrate(source, x, rows(ladder(1e-3, top, 1500), 41), solver=SOLVERS["heun"])
    output = integrate(target, latent, rows(ladder(top, 1e-3, 1500), 41), solver=SOLVERS["heun"])
    torch.testing.assert_close(output, -1 + 0.2 / STD * (x - MEAN), atol=1e-3, rtol=0)


# --- stochastic solvers: on a Gaussian they are affine, so their law is exact, without sampling ---


def law(solver: Solver, schedule: Tensor, denoiser: Denoiser = MODEL) -> tuple[float, float, float]:
    """Of the output given the noisy start x: its value at x = μ, its slope in x, and its variance.

    One row starts at μ, one at μ + 1, and one for each step starts at μ and gets one unit of noise there.
    """
    steps = len(schedule) - 1
    x = torch.full((steps + 2, 1), MEAN, dtype=F64)
    x[1] += 1
    impulses = torch.cat([torch.zeros(steps, 2, dtype=F64), torch.eye(steps, dtype=F64)], dim=1)
    out = integrate(denoiser, x, rows(schedule, len(x)), solver=solver, noise=replay(impulses[:, :, None]))[:, 0]
    return out[0].item(), (out[1] - out[0]).item(), (out[2:] - out[0]).square().sum().item()


def boomerang(solver: Solver, sigma: float, steps: int) -> tuple[float, float, float]:
    """Mean, std and correlation with the input, of data that is noised to `sigma` and integrated to 0."""
    schedule = torch.cat([ladder(sigma, 1e-3, steps - 1), torch.zeros(1, dtype=F64)])
    mean, slope, variance = law(solver, schedule)
    std = (slope**2 * (STD**2 + sigma**2) + variance) ** 0.5
    return mean, std, slope * STD / std


@pytest.mark.parametrize("sigma", [0.2, 0.75, 3.0])
@pytest.mark.parametrize(("name", "order"), [("ancestral", 1), ("dpmpp_2m_sde", 2)])
def test_boomerang_keeps_the_data_and_correlates_by_s2_over_s2_plus_sigma2(name: str, order: int, sigma: float) -> None:
    """In the limit of many steps the output is a second, independent draw from the posterior given x.

    Input and output then share x alone, so their correlation is corr(x0, x)² = s²/(s²+σ²). Few ancestral
    steps lose variance: each aims at the mean of the posterior. Both limits are met at the order given.
    """
    dial = STD**2 / (STD**2 + sigma**2)
    errors = []
    for steps in (20, 40, 80):
        mean, std, correlation = boomerang(SOLVERS[name], sigma, steps)
        assert mean == pytest.approx(MEAN, abs=1e-12)
        errors.append([abs(std - STD), abs(correlation - dial)])
    assert max(errors[-1]) < {1: 0.03, 2: 0.002}[order]
    measured = torch.tensor(errors[:-1]).div(torch.tensor(errors[1:])).log2()
    torch.testing.assert_close(measured, torch.full((2, 2), float(order)), atol=0.25, rtol=0)


@pytest.mark.parametrize("sigma", [0.2, 0.75, 3.0])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_sdedit_correlates_by_s_over_root_s2_plus_sigma2(name: str, sigma: float) -> None:
    """The deterministic way back is affine: with any number of steps, only the noising loses something."""
    dial = STD / (STD**2 + sigma**2) ** 0.5
    for steps in (2, 7, 100):
        mean, std, correlation = boomerang(SOLVERS[name], sigma, steps)
        assert (mean, correlation) == pytest.approx((MEAN, dial), abs=1e-9)
    assert std == pytest.approx(STD, abs=0.05)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_boomerang_sampled(name: str) -> None:
    """The same law by sampling, with noise that is drawn as in a real run; four standard errors."""
    count, steps, sigma = 30_000, 40, 0.75
    rng = torch.Generator().manual_seed(7)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng, dtype=like.dtype)

    x0 = MEAN + STD * normal(count, 1)
    schedule = torch.cat([ladder(sigma, 1e-3, steps - 1), torch.zeros(1, dtype=F64)])
    x = add_noise(x0, torch.full((count,), sigma, dtype=F64), noise)
    out = integrate(MODEL, x, rows(schedule, count), solver=SOLVERS[name], noise=noise)
    mean, std, correlation = boomerang(SOLVERS[name], sigma, steps)
    error = count**-0.5
    assert out.mean().item() == pytest.approx(mean, abs=4 * std * error)
    assert out.std().item() == pytest.approx(std, abs=4 * std * error / 2**0.5)
    measured = torch.corrcoef(torch.cat([x0, out], dim=1).T)[0, 1].item()
    assert measured == pytest.approx(correlation, abs=4 * (1 - correlation**2) * error)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_eta_splits_the_noise_but_keeps_its_amount(eta: float) -> None:
    """One step from a point x: what goes on of the old noise and what is new have variance σ'² together."""
    ideal = Gaussian(mean=0.0, std=0.0)  # all data at 0: x is all noise, and the estimate is exact
    schedule = torch.tensor([[2.0, 0.5]], dtype=F64)

    def step(x: float, e: float) -> float:
        start = torch.tensor([[x]], dtype=F64)
        noise = replay([torch.tensor([[e]])])
        return integrate(ideal, start, schedule, solver=Ancestral(eta=eta), noise=noise).item()

    assert (step(2, 0) ** 2 + step(0, 1) ** 2) == pytest.approx(0.25)
    assert step(0, 1) == pytest.approx(eta * 0.5 * (1 - 0.25**2) ** 0.5)


def test_eta_0_is_euler() -> None:
    x, sigmas = points(), rows(torch.cat([ladder(5, 0.02, 9), torch.zeros(1, dtype=F64)]), 41)
    quiet = integrate(MODEL, x, sigmas, solver=Ancestral(eta=0.0), noise=torch.randn_like)
    assert torch.equal(quiet, integrate(MODEL, x, sigmas, solver=SOLVERS["euler"]))


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_solver_rises_as_its_ode(name: str) -> None:
    x, sigmas = points(), rows(ladder(0.1, 5, 20), 41)
    ode = {"ancestral": "euler", "dpmpp_2m_sde": "dpmpp_2m"}[name]
    up = integrate(MODEL, x, sigmas, solver=SOLVERS[name], noise=torch.randn_like)
    torch.testing.assert_close(up, integrate(MODEL, x, sigmas, solver=SOLVERS[ode]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("sigma", [0.2, 3.0])
def test_consistency_sampling_gives_data_in_any_number_of_steps(sigma: float, steps: int) -> None:
    """Where the estimate is the end of the ODE's path. What a later step starts from has fresh noise only."""
    schedule = torch.cat([ladder(sigma, 0.1, steps - 1) if steps > 1 else at(sigma), at(0.0)])
    mean, slope, variance = law(SOLVERS["consistency"], schedule, lambda x, s: MODEL.flow(x, s, 0 * s))
    assert mean == pytest.approx(MEAN)
    assert slope**2 * (STD**2 + sigma**2) + variance == pytest.approx(STD**2)
    assert (variance > 0) == (steps > 1)


# --- schedules ---


@every_solver
def test_schedules_of_length_0_1_and_2(name: str) -> None:
    x, solver = points(5), SOLVERS[name]
    start = torch.full((5,), 2.0, dtype=F64)
    levels = FlowLevels(shift=3.0)
    assert integrate(MODEL, x, grid(levels, start, 0), solver=solver) is x
    once = integrate(MODEL, x, grid(levels, start, 1), solver=solver, noise=torch.randn_like)
    assert torch.equal(once, MODEL(x, start))
    draws = normal(2, 5, 1)
    twice = integrate(MODEL, x, grid(levels, start, 2), solver=solver, noise=replay(draws))
    middle = grid(levels, start, 2)[:, 1]
    there = integrate(MODEL, x, grid(levels, start, 2)[:, :2], solver=solver, noise=replay(draws))
    torch.testing.assert_close(twice, MODEL(there, middle), rtol=1e-12, atol=1e-12)


@every_solver
def test_rows_that_stay_are_untouched_bit_for_bit(name: str) -> None:
    """At σ = 0, where a model may well say NaN, and at any other level."""
    point_mass = Gaussian(mean=0.25, std=0.0)  # 0/0 at σ = 0
    x = torch.tensor([[0.1, -0.0, 1e-310], [-0.0, 3.0, 0.7], [0.5, 0.5, 0.5]], dtype=F64)
    sigmas = torch.tensor([[0.0, 0, 0], [2, 2, 2], [2, 1, 0]], dtype=F64)
    out = integrate(point_mass, x, sigmas, solver=SOLVERS[name], noise=torch.randn_like)
    assert torch.equal(out[:2].view(torch.int64), x[:2].view(torch.int64))
    torch.testing.assert_close(out[2], torch.full((3,), 0.25, dtype=F64))


@every_solver
def test_rising_from_0_raises(name: str) -> None:
    sigmas = torch.tensor([[2.0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="rises from sigma 0"):
        integrate(MODEL, torch.zeros(2, 1), sigmas, solver=SOLVERS[name], noise=torch.randn_like)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_solver_without_noise_raises(name: str) -> None:
    with pytest.raises(ValueError, match="pass noise="):
        integrate(MODEL, torch.zeros(1, 1), torch.tensor([[1.0, 0.0]]), solver=SOLVERS[name])


@every_solver
def test_a_batch_of_schedules_is_its_rows_one_by_one(name: str) -> None:
    """Down, up, short ones padded at the end or at the start, and one that rests midway."""
    schedules = [
        [3.0, 1.5, 0.8, 0.3, 0.0],
        [2.0, 0.0],
        [0.1, 0.3, 0.9, 2.0, 5.0],
        [4.0, 1.0, 0.5],
        [4.0, 2.0, 2.0, 1.0, 0.0],
    ]
    padded = [
        schedules[0],
        [2.0, 0.0, 0.0, 0.0, 0.0],
        schedules[2],
        [4.0, 4.0, 4.0, 1.0, 0.5],
        schedules[4],
    ]
    mixture = GaussianMixture(means=normal(3, 2, seed=1), weights=[0.2, 0.3, 0.5], std=0.4)
    x, draws = normal(5, 2), normal(4, 5, 2, seed=2)
    together = integrate(mixture, x, torch.tensor(padded, dtype=F64), solver=SOLVERS[name], noise=replay(draws))
    for row, schedule in enumerate(schedules):
        own = draws[2:, row : row + 1] if row == 3 else draws[:, row : row + 1]
        alone = integrate(
            mixture,
            x[row : row + 1],
            torch.tensor([schedule], dtype=F64),
            solver=SOLVERS[name],
            noise=replay(own),
        )
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-13, atol=1e-13)


@every_solver
@pytest.mark.parametrize("prediction", ["v_prediction", "flow", "sample"])
def test_pure_noise_in_float32_loses_no_digits(name: str, prediction: str) -> None:
    """From σ = 1e8 down, through what a network predicts: float32 agrees with float64 to its last digits."""

    def through(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            s = sigma[:, None].to(dtype)
            x0 = MODEL(x, sigma)
            output = {
                "sample": x0,
                "flow": (x - x0) / s - x0,
                "v_prediction": (x - x0) / s / torch.sqrt(1 + s**2) - s / torch.sqrt(1 + s**2) * x0,
            }[prediction]
            return to_x0(output, x, sigma, prediction)  # type: ignore[arg-type]

        return denoise

    sigmas = grid(FlowLevels(), torch.full((64,), SIGMA_PURE_NOISE), 12, "trailing")
    x, draws = (SIGMA_PURE_NOISE * normal(64, 1)).float(), normal(12, 64, 1, seed=3).float()
    singles, doubles = (
        integrate(through(dtype), x.to(dtype), sigmas.to(dtype).double(), solver=SOLVERS[name], noise=replay(draws))
        for dtype in (torch.float32, F64)
    )
    assert singles.dtype == torch.float32
    assert (singles - doubles).abs().max() < 5e-6


def test_noising_alone() -> None:
    x0, e = normal(3, 2), normal(3, 2, seed=1)
    x = add_noise(x0, torch.tensor([0.0, 1.0, 5.0]), lambda like: e)
    assert torch.equal(x[0], x0[0])
    torch.testing.assert_close(x[1:], x0[1:] + torch.tensor([[1.0], [5.0]]) * e[1:])


def test_unknown_prediction_is_named() -> None:
    with pytest.raises(ValueError, match=r"'eps'.*epsilon, v_prediction, sample, flow"):
        to_x0(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), "eps")  # type: ignore[arg-type]


# --- the models in closed form ---

MIXTURE = GaussianMixture(means=torch.tensor([[-1.0], [0.2], [1.5]], dtype=F64), weights=[0.5, 0.2, 0.3], std=0.3)


@pytest.mark.parametrize("sigma", [0.05, 0.6, 4.0])
def test_mixture_against_numerical_integration(sigma: float) -> None:
    """E[x0 | x] = ∫ x0·p(x0)·p(x | x0) dx0 / ∫ p(x0)·p(x | x0) dx0, on a fine lattice of x0."""
    x, x0 = points(11), torch.linspace(-4, 4, 2001, dtype=F64)
    weights, means = torch.tensor(MIXTURE.weights, dtype=F64), MIXTURE.means[:, 0]
    prior = (weights * Normal(means, MIXTURE.std).log_prob(x0[:, None]).exp()).sum(1)
    joint = prior * Normal(x0, sigma).log_prob(x).exp()
    exact = (joint * x0).sum(1) / joint.sum(1)
    estimate = MIXTURE(x, torch.full((11,), sigma, dtype=F64))[:, 0]
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", ["gaussian", "mixture"])
def test_denoiser_is_tweedie_of_the_score(model: str) -> None:
    """D(x, σ) = x + σ²·∇ log p_σ(x), the density by `torch.distributions`, on images [2, 3, 1]."""
    means, weights = normal(3, 2, 3, 1, seed=4), torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    if model == "gaussian":
        means, weights = means[:1], torch.ones(1, dtype=F64)
    std, sigma = 0.7, torch.tensor([0.1, 0.5, 2.0, 30.0], dtype=F64)
    x = normal(4, 2, 3, 1).requires_grad_()
    spread = (std**2 + sigma**2).sqrt().reshape(-1, 1, 1, 1, 1)
    log_p = torch.logsumexp(weights.log() + Normal(means, spread).log_prob(x[:, None]).sum((2, 3, 4)), dim=1)
    (score,) = torch.autograd.grad(log_p.sum(), x)
    expected = x.detach() + sigma.reshape(-1, 1, 1, 1) ** 2 * score
    denoiser = (
        Gaussian(mean=means[0], std=std)
        if model == "gaussian"
        else GaussianMixture(means=means, weights=weights.tolist(), std=std)
    )
    torch.testing.assert_close(denoiser(x.detach(), sigma), expected, rtol=1e-9, atol=1e-9)


def test_mixture_of_one_is_a_gaussian() -> None:
    x, sigma = points(), torch.linspace(0, 5, 41, dtype=F64)
    one = GaussianMixture(means=torch.tensor([[MEAN]], dtype=F64), weights=[1.0], std=STD)
    assert torch.equal(one.posterior(x, sigma), torch.ones(41, 1, dtype=F64))
    torch.testing.assert_close(one(x, sigma), MODEL(x, sigma))
    assert torch.equal(one(x[:0], sigma[:0]), x[:0])
