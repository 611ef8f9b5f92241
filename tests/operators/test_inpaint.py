"""RePaint: its schedule, its algorithm in the paper's own variables, and a posterior known in closed form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Given, Inpaint
from pipeline.operators.inpaint import time_travel

F64 = torch.float64
CORRELATION, KNOWN = 0.9, 1.0
COVARIANCE = torch.tensor([[1, CORRELATION], [CORRELATION, 1]], dtype=F64)


def levels(steps: int = 1000) -> Any:
    return levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": steps})


def correlated(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] where neighbours in each row of two pixels have correlation .9, mean 0 and variance 1."""
    noisy = COVARIANCE + sigma.double()[:, None, None] ** 2 * torch.eye(2, dtype=F64)
    return torch.einsum("bij,bchj->bchi", COVARIANCE @ torch.linalg.inv(noisy), x.double()).to(x)


def official_times(steps: int, jump_length: int, resamples: int) -> list[int]:
    """RePaint's schedule as its paper's pseudo-code builds it: −1 is clean, `steps` − 1 pure noise."""
    jumps = dict.fromkeys(range(0, steps - jump_length, jump_length), resamples - 1)
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump_length):
                t += 1
                times.append(t)
    return [*times, -1]


def visited(steps: int, jump_length: int, resamples: int) -> list[int]:
    """Every level on the way, single steps up included."""
    levels = [steps]
    for leg in time_travel(steps, jump_length, resamples):
        levels += [*range(levels[-1] + 1, leg[0] + 1), *leg[1:]]
    return levels


# --- the schedule ---


def test_the_paper_s_schedule_takes_2410_calls_and_2160_renoisings() -> None:
    changes = [after - before for before, after in pairwise(visited(250, 10, 10))]
    assert (changes.count(-1), changes.count(1), len(changes)) == (2410, 2160, 4570)


@for_all(steps=st.integers(1, 60), jump_length=st.integers(1, 60), resamples=st.integers(1, 5))
def test_time_travel_is_a_sound_walk_and_the_official_one(steps: int, jump_length: int, resamples: int) -> None:
    walk = visited(steps, jump_length, resamples)
    assert (walk[0], walk[-1]) == (steps, 0)
    assert {abs(a - b) for a, b in pairwise(walk)} == {1}
    assert 0 not in walk[:-1]  # nothing comes back from a clean image
    assert max(walk) == steps
    assert [level - 1 for level in walk] == official_times(steps, jump_length, resamples)


@pytest.mark.parametrize(("settings", "calls"), [((250, 10, 10), 2410), ((20, 5, 1), 20), ((20, 5, 5), 80)])
def test_the_model_is_called_as_often_as_the_schedule_says(settings: tuple[int, int, int], calls: int) -> None:
    seen: list[Tensor] = []

    def count(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma)
        return 0 * x

    steps, jump_length, resamples = settings
    operator = Inpaint(steps=steps, jump_length=jump_length, resamples=resamples)
    model = ClosedForm(denoise=count, levels=levels(), size=(5, 7))
    z = torch.ones(1, 1, 5, 7)
    done = operator(model, z, Given(mask=torch.ones(1, 1, 5, 7)), KeyedNoise(b"", ["k"], "inpaint", 0))
    assert len(seen) == calls
    assert {float(s) for s in seen} == set(done.sigmas[0, :-1].float().tolist())


# --- the algorithm ---


def moments(steps: int, jump_length: int, resamples: int) -> tuple[float, float]:
    """Mean and variance of the unknown pixel of a pair, exactly: algorithm 1 is linear in x_t and in its noise.

    In the paper's variables throughout: x_t = √ᾱ·x0 + √(1−ᾱ)·ε, β_t, DDPM's posterior mean and variance.
    """
    alpha_bar = 1 / (1 + levels(steps).knots[1:] ** 2)
    before = torch.cat([torch.ones(1, dtype=F64), alpha_bar[:-1]])
    beta, eye = 1 - alpha_bar / before, torch.eye(2, dtype=F64)
    mean, spread = torch.zeros(2, dtype=F64), (1 - alpha_bar[-1]) * eye
    mean[0], spread[0, 0] = alpha_bar[-1].sqrt() * KNOWN, 1 - alpha_bar[-1]
    for t, then in pairwise(official_times(steps, jump_length, resamples)):
        if then < t:
            a, b, p = alpha_bar[t], beta[t], before[t]
            estimate = a.sqrt() * COVARIANCE @ torch.linalg.inv(a * COVARIANCE + (1 - a) * eye)
            step = p.sqrt() * b / (1 - a) * estimate + (1 - b).sqrt() * (1 - p) / (1 - a) * eye
            mean, spread = step @ mean, step @ spread @ step.T + (1 - p) / (1 - a) * b * eye
            mean[0], spread[0, 1], spread[1, 0], spread[0, 0] = p.sqrt() * KNOWN, 0, 0, 1 - p
        else:
            mean, spread = (1 - beta[then]).sqrt() * mean, (1 - beta[then]) * spread + beta[then] * eye
    return float(mean[1]), float(spread[1, 1])


def sampled(operator: Inpaint, train_steps: int, count: int = 20000) -> tuple[float, float]:
    model = ClosedForm(denoise=correlated, levels=levels(train_steps), size=(count, 2))
    z, mask = torch.full((1, 1, count, 2), KNOWN), torch.tensor([0.0, 1.0]).expand(1, 1, count, 2)
    out = operator(model, z, Given(mask=mask), KeyedNoise(b"salt", ["k"], "inpaint", 0)).pixels
    assert torch.equal(out[..., 0], z[..., 0])
    return out[..., 1].mean().item(), out[..., 1].var().item()


@pytest.mark.parametrize(("steps", "jump_length", "resamples"), [(12, 1, 1), (12, 3, 3), (12, 1, 4), (30, 7, 5)])
def test_it_is_the_paper_s_algorithm(steps: int, jump_length: int, resamples: int) -> None:
    operator = Inpaint(steps=steps, jump_length=jump_length, resamples=resamples)
    mean, variance = moments(steps, jump_length, resamples)
    found = sampled(operator, train_steps=steps)
    assert found[0] == pytest.approx(mean, abs=4 * (variance / 20000) ** 0.5)
    assert found[1] == pytest.approx(variance, rel=4 * (2 / 20000) ** 0.5)


def test_resampling_leads_to_the_posterior_where_plain_replacement_does_not() -> None:
    """Given its neighbour 1, the unknown pixel has mean .9 and variance .19; replacement alone sees it too late."""
    assert sampled(Inpaint(steps=50, resamples=1), 50)[0] == pytest.approx(0.614, abs=0.02)
    assert sampled(Inpaint(steps=50, jump_length=5, resamples=10), 50)[0] == pytest.approx(0.868, abs=0.02)
    mean, variance = moments(250, 10, 30)
    assert mean == pytest.approx(CORRELATION * KNOWN, abs=0.01)
    assert variance == pytest.approx(1 - CORRELATION**2, abs=0.025)


# --- what is kept ---

SMALL = ClosedForm(denoise=Gaussian(mean=0.3, std=0.5), levels=levels(), size=(5, 7))


def normal(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(3, channels, 5, 7, generator=torch.Generator().manual_seed(seed))


def apply(operator: Inpaint, z: Tensor, mask: Tensor) -> Tensor:
    return operator(SMALL, z, Given(mask=mask), KeyedNoise(b"salt", ["a", "b", "c"], "inpaint", 0)).pixels


@pytest.mark.parametrize("solver", ["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("known_noise", ["fresh", "shared"])
def test_kept_pixels_are_exact_and_hidden_ones_are_never_seen(solver: Any, known_noise: Any) -> None:
    z, mask = normal(0), (normal(1, 1) > 0).float()
    operator = Inpaint(steps=4, jump_length=2, resamples=2, solver=solver, known_noise=known_noise)
    out, hidden = apply(operator, z, mask), mask.bool().expand_as(z)
    assert torch.equal(out[~hidden], z[~hidden])
    assert not torch.isclose(out[hidden], z[hidden]).all()
    assert torch.equal(out, apply(operator, torch.where(hidden, 99.0, z), mask))


def test_shared_noise_is_one_draw_for_all_levels() -> None:
    """What the model sees of the known pixels is z + σ·e with one e, on each way down."""
    z, mask, seen = normal(0), (normal(1, 1) > 0).float(), []

    def spy(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(((x - z) / sigma[:, None, None, None])[(1 - mask).bool().expand_as(z)])
        return 0 * x

    model = ClosedForm(denoise=spy, levels=levels(), size=(5, 7))
    for known_noise, same in (("shared", True), ("fresh", False)):
        seen.clear()
        operator = Inpaint(steps=6, jump_length=2, resamples=2, known_noise=known_noise)  # type: ignore[arg-type]
        operator(model, z, Given(mask=mask), KeyedNoise(b"salt", ["a", "b", "c"], "inpaint", 0))
        assert all(torch.allclose(e, seen[0], atol=1e-4) for e in seen) == same


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValidationError, match="jumps of 5 steps need more than 5 steps"):
        Inpaint(steps=5)
    Inpaint(steps=5, resamples=1)
