"""Laws of the projections, and what they do to walks whose result is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pipeline.diffusion.constraints import Measurement, consistent, from_level, grey, keep, pixels, pooling, shared
from pipeline.diffusion.solvers import SOLVERS, Constraint, integrate, no_noise
from pipeline.models.gaussian import Gaussian

F64 = torch.float64
MEAN, STD = 0.3, 0.5
SHAPE = (5, 3, 14, 6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


MASK = (normal(5, 1, 14, 6, seed=9) > 0).to(F64)
MEASUREMENTS = {"pixels": pixels(MASK), "pooling": pooling(2), "grey": grey()}
every_measurement = pytest.mark.parametrize("name", MEASUREMENTS)


GENERATOR = torch.Generator().manual_seed(1)


def noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=GENERATOR, dtype=like.dtype)


def ladder(count: int, high: float = 8.0, steps: int = 6) -> Tensor:
    return torch.cat([torch.linspace(high, 0.1, steps, dtype=F64), torch.zeros(1, dtype=F64)]).expand(count, -1)


# --- measurements ---


@every_measurement
def test_projections_are_orthogonal(name: str) -> None:
    """P = P² = Pᵀ, and A·A⁺ is the identity on what A measures."""
    measurement, x, y = MEASUREMENTS[name], normal(*SHAPE), normal(*SHAPE, seed=1)
    projected = measurement.project(x)
    assert projected.abs().amax() > 0
    assert not torch.allclose(projected, x)
    torch.testing.assert_close(measurement.project(projected), projected)
    torch.testing.assert_close((projected * y).sum(), (x * measurement.project(y)).sum())
    seen = measurement.forward(x)
    torch.testing.assert_close(measurement.forward(measurement.pseudo_inverse(seen)), seen)
    measurement.check(x)
    measurement.check(x.float())


@given(factor=st.integers(1, 5), height=st.integers(1, 4), width=st.integers(1, 4))
def test_pooling_of_any_size(factor: int, height: int, width: int) -> None:
    x = torch.arange(2.0 * 3 * factor**2 * height * width).reshape(2, 3, factor * height, factor * width)
    by_hand = x.reshape(2, 3, height, factor, width, factor).mean((3, 5))
    torch.testing.assert_close(pooling(factor).forward(x), by_hand)
    repeated = by_hand.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(pooling(factor).project(x), repeated)


@pytest.mark.parametrize(
    ("forward", "pseudo_inverse", "reason"),
    [
        (lambda x: avg_pool2d(x, 2), lambda y: interpolate(y, scale_factor=2, mode="bicubic"), "does not belong"),
        (lambda x: avg_pool2d(x, 2), lambda y: 0.9 * interpolate(y, scale_factor=2), "does not belong"),
        (lambda x: x.sum(1, keepdim=True), lambda y: y.expand(-1, 3, -1, -1), "does not belong"),
        (lambda x: x + 1, lambda y: y - 1, "not linear"),
        (lambda x: x.abs(), lambda y: y, "not linear"),
    ],
)
def test_what_is_no_measurement_is_refused(forward: Constraint, pseudo_inverse: Constraint, reason: str) -> None:
    wrong = Measurement(forward=forward, pseudo_inverse=pseudo_inverse)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=reason):
        consistent(wrong, normal(*SHAPE), noise)


# --- constraints ---


@every_measurement
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_output_measures_as_the_reference(name: str, solver: str, dtype: torch.dtype) -> None:
    measurement, reference = MEASUREMENTS[name], normal(*SHAPE, seed=2).to(dtype)
    if name == "pixels":
        measurement = pixels(MASK.to(dtype))
    held, sigmas = consistent(measurement, reference, noise), ladder(5).to(dtype)
    start = 8 * normal(*SHAPE, seed=3).to(dtype)
    out = integrate(Gaussian(mean=MEAN, std=STD), start, sigmas, solver=SOLVERS[solver], noise=noise, constraint=held)
    torch.testing.assert_close(measurement.forward(out), measurement.forward(reference), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(out, reference, atol=0.1)


@every_measurement
def test_the_constraint_is_its_equation(name: str) -> None:
    """P·x' = P(y + σ·ε), and what A does not see is left alone, each row at its own σ."""
    measurement, reference, x, epsilon = MEASUREMENTS[name], *(normal(*SHAPE, seed=i) for i in range(3))
    sigma = torch.tensor([0, 0.5, 1, 2, 30], dtype=F64)
    out = consistent(measurement, reference, lambda like: epsilon)(x, sigma)
    noised = reference + sigma[:, None, None, None] * epsilon
    torch.testing.assert_close(measurement.forward(out), measurement.forward(noised))
    torch.testing.assert_close(out - measurement.project(out), x - measurement.project(x))


def test_keep_is_the_measurement_of_pixels_bit_for_bit() -> None:
    reference, x, epsilon = (normal(*SHAPE, seed=i).float() for i in range(3))
    sigma = torch.tensor([0, 0.5, 1, 2, 30])
    noised = reference + sigma[:, None, None, None] * epsilon
    out = keep(MASK.float(), reference, lambda like: epsilon)(x, sigma)
    assert torch.equal(out, torch.where(MASK.bool(), x, noised))
    general = consistent(pixels(MASK.float()), reference, lambda like: epsilon)(x, sigma)
    torch.testing.assert_close(out, general, rtol=1e-5, atol=1e-5)


def test_below_its_floor_a_constraint_rests() -> None:
    x, reference = normal(*SHAPE), normal(*SHAPE, seed=1)
    held = keep(torch.zeros(5, 1, 1, 1), reference, lambda like: torch.zeros_like(like))
    floor = torch.tensor([0, 0.4, 0.5, 0.6, 9], dtype=F64)
    out = from_level(floor, held)(x, torch.full((5,), 0.5, dtype=F64))
    assert torch.equal(out[:3], reference[:3])
    assert torch.equal(out[3:], x[3:])
    assert torch.equal(from_level(torch.zeros(5), held)(x, torch.zeros(5)), reference)


def test_shared_noise_is_drawn_once_and_fresh_noise_every_time() -> None:
    draws = iter(normal(7, *SHAPE))
    same = shared(lambda like: next(draws), like=torch.empty(SHAPE))
    assert torch.equal(same(torch.empty(SHAPE)), same(torch.empty(SHAPE)))
    assert torch.equal(next(draws), normal(7, *SHAPE)[1])
    held = keep(torch.zeros(5, 1, 1, 1), torch.zeros(SHAPE), lambda like: next(draws).float())
    one, two = (held(torch.zeros(SHAPE), torch.ones(5)) for _ in range(2))
    assert not torch.equal(one, two)


def test_shared_noise_makes_a_deterministic_walk() -> None:
    """Where everything is kept, an Euler walk carries the noised reference itself, at every level."""
    reference, epsilon = normal(*SHAPE), normal(*SHAPE, seed=1)
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x, sigma))
        return Gaussian(mean=MEAN, std=STD)(x, sigma)

    held = keep(torch.zeros(5, 1, 1, 1), reference, shared(lambda like: epsilon, reference))
    start = held(normal(*SHAPE, seed=2), ladder(5)[:, 0])
    integrate(spy, start, ladder(5), solver=SOLVERS["euler"], noise=no_noise, constraint=held)
    assert len(seen) == 6
    for x, sigma in seen:
        assert torch.equal(x, reference + sigma[:, None, None, None] * epsilon)


@every_measurement
def test_rows_do_not_meet(name: str) -> None:
    measurement = pixels(MASK[[4, 1]]) if name == "pixels" else MEASUREMENTS[name]
    reference, x, epsilon = (normal(*SHAPE, seed=i) for i in range(3))
    sigma = torch.tensor([0, 0.5, 1, 2, 30], dtype=F64)
    together = consistent(MEASUREMENTS[name], reference, lambda like: epsilon)(x, sigma)
    some = consistent(measurement, reference[[4, 1]], lambda like: epsilon[[4, 1]])(x[[4, 1]], sigma[[4, 1]])
    torch.testing.assert_close(together[[4, 1]], some, rtol=1e-12, atol=1e-12)


def sampled_variance(levels: Tensor) -> float:
    """Of one coordinate after the DDPM posterior's steps (2006.11239, eq. 7, in σ-space) from pure noise."""
    variance = levels[0] ** 2
    for sigma, sigma_next in pairwise(levels):
        ratio, share = (sigma_next / sigma) ** 2, STD**2 / (STD**2 + sigma**2)
        variance = (share + ratio * (1 - share)) ** 2 * variance + sigma_next**2 * (1 - ratio)
    return float(variance)


@pytest.mark.parametrize("name", ["pooling", "grey"])
def test_sampling_under_a_measurement_gives_the_posterior(name: str) -> None:
    """Isotropic Gaussian data: given A·x0 = y, x0 has mean A⁺y + (I−P)·μ and covariance (I−P)·s².

    P is orthogonal and the noise white, so both halves diffuse without each other: replacement is exact here, but for
    what the finite number of steps does to any sample's variance.
    """
    count, measurement = 600, MEASUREMENTS[name]
    reference = normal(1, *SHAPE[1:], seed=4).expand(count, -1, -1, -1)
    mu = torch.linspace(-1, 1, 3 * 14 * 6, dtype=F64).reshape(1, 3, 14, 6)
    levels = torch.linspace(1, 0, 41, dtype=F64).pow(4).mul(60)
    start, held = 60 * normal(*reference.shape, seed=6), consistent(measurement, reference, noise)
    model, sigmas = Gaussian(mean=mu, std=STD), levels.expand(count, -1)
    out = integrate(model, start, sigmas, solver=SOLVERS["ancestral"], noise=noise, constraint=held)
    expected = measurement.project(reference[:1]) + mu - measurement.project(mu)
    free = 1 - 1 / {"pooling": 4, "grey": 3}[name]
    assert (out.mean(0) - expected[0]).abs().amax().item() < 5 * STD / count**0.5
    assert out.var(0).mean().item() == pytest.approx(free * sampled_variance(levels), rel=0.015)
    finer = torch.linspace(1, 0, 4001, dtype=F64).pow(4).mul(60)
    assert sampled_variance(finer) == pytest.approx(STD**2, rel=0.01)
