"""The way up the ODE and back, and the great circle between two latents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.inversion import Inversion, slerp
from pipeline.diffusion.levels import FlowLevels, Spacing, grid, levels_from_scheduler
from pipeline.models.gaussian import Gaussian

F64 = torch.float64
LEVELS = FlowLevels(steps=11)  # the smallest σ is 0.1
MODEL = Gaussian(mean=0.3, std=0.5)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("spacing", ["karras", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_ladder_leads_from_the_top_to_the_smallest_level(spacing: str, steps: int) -> None:
    top = torch.tensor([3.0, 0.1, 0.04, 0.0], dtype=F64)
    ladder = Inversion(steps=steps, spacing=spacing).ladder(LEVELS, top)
    assert ladder.shape == (4, steps + 1)
    torch.testing.assert_close(ladder[:, 0], top)
    torch.testing.assert_close(ladder[:, -1], torch.tensor([0.1, 0.1, 0.04, 0.0], dtype=F64))  # below it no way leads
    assert (ladder.diff(dim=1)[0] < 0).all()
    assert torch.equal(ladder[1:], ladder[1:, :1].expand(3, steps + 1))  # to stay exactly is to change no bit
    lifted = Inversion(steps=steps, spacing=spacing).ladder(LEVELS, top, 0.5)
    torch.testing.assert_close(lifted[:, -1], torch.tensor([0.5, 0.1, 0.04, 0.0], dtype=F64))


@pytest.mark.parametrize("spacing", ["karras", "linspace"])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_ladder_has_the_levels_of_a_grid_but_for_its_0(spacing: Spacing, steps: int) -> None:
    levels = levels_from_scheduler({"beta_schedule": "scaled_linear"})
    top = torch.tensor([14.0, 3.0, 0.5], dtype=F64)
    ladder = Inversion(steps=steps, spacing=spacing).ladder(levels, top)
    torch.testing.assert_close(ladder, grid(levels, top, steps + 1, spacing)[:, :-1])


def test_an_image_is_lifted_by_one_pattern_of_the_deviation_of_its_level() -> None:
    x, top = normal(3, 2, 40, 41), torch.tensor([3.0, 0.04, 0.0], dtype=F64)
    added = Inversion(lift=0.1).lifted(x, top) - x
    assert added.flatten(1).std(1).tolist() == pytest.approx([0.1, 0.04, 0], rel=0.05)
    torch.testing.assert_close(added[0] * 0.4, added[1])
    assert torch.equal(Inversion().lifted(x, top), x)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1.0), ("heun", 2.0), ("dpmpp_2m", 2.0)])
def test_order_of_the_inversion(solver: str, order: float) -> None:
    """A round trip alone also passes an inversion that is off by one; the exact flow does not let it."""
    x, errors = torch.linspace(-2, 2, 41, dtype=F64)[:, None], []
    for steps in (80, 160):
        inversion = Inversion(steps=steps, solver=solver)
        up = inversion.ladder(LEVELS, torch.full((41,), 3.0, dtype=F64)).flip(1)
        exact = MODEL.flow(x, up[:, 0], up[:, -1])
        errors.append((inversion.walk(MODEL, x, up) - exact).abs().max().log2().item())
    assert errors[0] - errors[1] == pytest.approx(order, abs=0.1)


def test_slerp_is_the_great_circle() -> None:
    """In the plane of two orthogonal vectors: a quarter circle."""
    a, b = torch.tensor([[2.0, 0, 0]], dtype=F64), torch.tensor([[0, 0, 2.0]], dtype=F64)
    for t in (0.0, 0.25, 0.5, 1.0):
        angle = torch.tensor(t * torch.pi / 2, dtype=F64)
        expected = 2 * torch.stack([angle.cos(), angle * 0, angle.sin()])[None]
        torch.testing.assert_close(slerp(a, b, torch.tensor([t])), expected)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_slerp_keeps_ends_and_norms_and_turns_evenly(t: float, seed: int) -> None:
    a, b = normal(3, 2, 5, 7, seed=seed), normal(3, 2, 5, 7, seed=seed + 5000)
    a, b = (x / x.flatten(1).norm(dim=1)[:, None, None, None] for x in (a, b))
    share = torch.tensor([0.0, t, 1.0], dtype=F64)
    found = slerp(a, b, share)
    torch.testing.assert_close(found[0], a[0])
    torch.testing.assert_close(found[2], b[2])
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(3, dtype=F64))
    whole, part = (torch.acos((a[1] * x[1]).sum().clamp(-1, 1)) for x in (b, found))
    torch.testing.assert_close(part, t * whole, atol=1e-6, rtol=0)


def test_slerp_where_there_is_no_one_circle() -> None:
    a = normal(3, 5)
    share = torch.tensor([0.3, 0.3, 0.3], dtype=F64)
    torch.testing.assert_close(slerp(a, a, share), a)
    torch.testing.assert_close(slerp(a, torch.zeros_like(a), share).isfinite(), torch.ones(3, 5, dtype=torch.bool))
    assert slerp(a, -a, share).isfinite().all()
