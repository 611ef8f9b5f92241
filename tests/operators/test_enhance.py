"""Enhancement: what it measures, what it keeps of it, and what it may not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Boomerang, Enhance, Given

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
MODEL = ClosedForm(denoise=Gaussian(mean=0.3, std=0.5), levels=LEVELS, size=(6, 15))
KEYS = ["a", "b.c", "d/e"]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(seed))


def apply(operator: Enhance | Boomerang, z: Tensor) -> Tensor:
    return operator(MODEL, z, Given(), KeyedNoise(b"salt", KEYS, "enhance", 0)).pixels


def upsampled(z: Tensor) -> Tensor:
    return interpolate(avg_pool2d(z, 3), scale_factor=3, mode="bicubic")


Z = images(6, 15)


def test_without_consistency_it_is_boomerang_from_the_upsample() -> None:
    free = apply(Enhance(factor=3, t_boom=0.3, consistent=False), Z)  # type: ignore[arg-type]
    assert torch.equal(free, apply(Boomerang(t_boom=0.3), upsampled(Z)))  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_consistent_outputs_measure_exactly_as_their_input(solver: Any, level: Any) -> None:
    out = apply(Enhance(factor=3, t_boom=level, solver=solver, steps=4), Z)
    torch.testing.assert_close(avg_pool2d(out, 3), avg_pool2d(Z, 3), rtol=1e-5, atol=1e-5)
    drifting = apply(Enhance(factor=3, t_boom=level, solver=solver, steps=4, consistent=False), Z)
    assert not torch.allclose(avg_pool2d(drifting, 3), avg_pool2d(Z, 3), atol=1e-2)


@pytest.mark.parametrize("consistent", [True, False])
def test_only_the_measurement_is_seen(consistent: bool) -> None:
    """Adding what pooling does not see changes nothing."""
    hidden = images(6, 15, seed=1)
    hidden = hidden - interpolate(avg_pool2d(hidden, 3), scale_factor=3)
    operator = Enhance(factor=3, consistent=consistent)
    torch.testing.assert_close(apply(operator, Z), apply(operator, Z + hidden), rtol=1e-4, atol=1e-4)


def test_at_level_zero_it_is_the_upsample() -> None:
    nothing = Enhance(factor=3, t_boom=0.0, consistent=False)  # type: ignore[arg-type]
    assert torch.equal(apply(nothing, Z), upsampled(Z))
    back = upsampled(Z) - interpolate(avg_pool2d(upsampled(Z) - Z, 3), scale_factor=3)
    consistent = apply(Enhance(factor=3, t_boom=0.0), Z)  # type: ignore[arg-type]
    torch.testing.assert_close(consistent, back, rtol=1e-5, atol=1e-5)


def test_what_came_in_small_loses_little() -> None:
    """The run brings a small image to the model's size by bicubic interpolation; its means are about its pixels."""
    smooth = interpolate(images(2, 5), size=(20, 50), mode="bicubic")
    small = avg_pool2d(smooth, 2)
    again = avg_pool2d(interpolate(small, scale_factor=3, mode="bicubic"), 3)
    assert (again - small).abs().mean().item() < 0.1 * small.std().item()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="factor 4 does not divide the model's 6 × 15 pixels"):
        Enhance(factor=4).check(MODEL, None)
    Enhance(factor=3).check(MODEL, None)
