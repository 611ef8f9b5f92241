"""ILVR against its algorithm in the paper's own variables, and on what it takes from the reference."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import ILVR, Given

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
MODEL = ClosedForm(denoise=Gaussian(mean=0.3, std=0.5), levels=LEVELS, size=(6, 15))
KEYS = ["a", "b.c", "d/e"]


def normal(seed: int) -> Tensor:
    return torch.randn(3, 2, 6, 15, generator=torch.Generator().manual_seed(seed))


def noise() -> KeyedNoise:
    return KeyedNoise(b"salt", KEYS, "ilvr", 0)


def low_pass(x: Tensor) -> Tensor:
    """φ_3 by hand: every pixel becomes the mean of its 3 × 3 square."""
    means = x.reshape(3, 2, 2, 3, 5, 3).mean((3, 5), keepdim=True)
    return means.expand(-1, -1, -1, 3, -1, 3).reshape(x.shape)


Z, GUIDE = normal(0), normal(1)


@pytest.mark.parametrize("guide", [None, GUIDE])
@pytest.mark.parametrize("solver", ["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"])
def test_the_output_s_low_frequencies_are_the_reference_s(guide: Tensor | None, solver: Any) -> None:
    out = ILVR(factor=3, steps=4, solver=solver)(MODEL, Z, Given(guide=guide), noise()).pixels
    reference = Z if guide is None else guide
    torch.testing.assert_close(avg_pool2d(out, 3), avg_pool2d(reference, 3), rtol=1e-5, atol=1e-5)
    assert not torch.isclose(out, reference, atol=1e-2).all(0).any()


def test_nothing_else_of_the_reference_is_seen() -> None:
    operator = ILVR(factor=3, steps=4)
    blurred = operator(MODEL, low_pass(Z), Given(), noise()).pixels
    torch.testing.assert_close(operator(MODEL, Z, Given(), noise()).pixels, blurred, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_it_is_the_paper_s_algorithm(floor: float) -> None:
    """Algorithm 1: x_{t−1} = φ(y_{t−1}) + (I − φ)(x'_{t−1}), while t − 1 is not below the floor."""
    steps = 5
    alphas, draw, y = (
        1 / (1 + ILVR(steps=steps).schedule(MODEL, LEVELS.sigma(torch.ones(1)))[0] ** 2),
        noise(),
        Z.double(),
    )
    x = (1 - alphas[0]).sqrt() * draw(Z).double()
    for i, (now, then) in enumerate(pairwise(alphas), start=1):
        estimate = (0.25 * now.sqrt() * x + (1 - now) * 0.3) / (0.25 * now + 1 - now)
        beta = 1 - now / then
        mean = then.sqrt() * beta / (1 - now) * estimate + (1 - beta).sqrt() * (1 - then) / (1 - now) * x
        x = mean + (beta * (1 - then) / (1 - now)).sqrt() * draw(Z).double()
        noised = then.sqrt() * y + (1 - then).sqrt() * draw(Z).double()
        if 1 - i / steps >= floor:
            x = low_pass(noised) + x - low_pass(x)
    out = ILVR(factor=3, floor={"fraction": floor}, steps=steps)(MODEL, Z, Given(), noise()).pixels  # type: ignore[arg-type]
    torch.testing.assert_close(out.double(), x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(avg_pool2d(out, 3), avg_pool2d(Z, 3), atol=1e-5) == (floor == 0)


def test_where_the_floor_is_the_highest_level_it_samples_freely() -> None:
    free = [ILVR(factor=3, floor={"sigma": 1e9}, steps=4)(MODEL, z, Given(), noise()).pixels for z in (Z, GUIDE)]  # type: ignore[arg-type]
    assert torch.equal(*free)


def test_what_cannot_work_is_refused() -> None:
    for factor in (2, 5, 4):
        with pytest.raises(UserError, match=f"factor {factor} does not divide the model's 6 × 15 pixels"):
            ILVR(factor=factor).check(MODEL, None)
    ILVR(factor=3).check(MODEL, None)
