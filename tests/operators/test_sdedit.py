"""SDEdit against Boomerang, against its own algorithm, and on what a mask keeps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Boomerang, Given, SDEdit

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
MODEL = ClosedForm(
    denoise=Gaussian(mean=0.3, std=0.5),
    by_class=(Gaussian(mean=-1.0, std=0.2), Gaussian(mean=1.0, std=0.2)),
    levels=LEVELS,
    size=(5, 7),
)
KEYS = ["a", "b.c", "d/e"]


def normal(seed: int, channels: int = 3) -> Tensor:
    return torch.randn(3, channels, 5, 7, generator=torch.Generator().manual_seed(seed))


def noise() -> KeyedNoise:
    return KeyedNoise(b"salt", KEYS, "sdedit", 0)


Z, GUIDE, MASK = normal(0), normal(1), (normal(2, 1) > 0).float()
LABELS = torch.tensor([0, 1, 0])


@pytest.mark.parametrize("level", [0.0, 0.5, [0.2, 0.9], {"sigma": 0.7}, 1.0])
@pytest.mark.parametrize("how", [{}, {"solver": "heun", "steps": 3}, {"eta": 0.3, "guidance": 2}, {"condition": 1}])
def test_without_mask_guide_and_repeats_it_is_boomerang(level: Any, how: dict[str, Any]) -> None:
    given = Given(labels=LABELS)
    edited = SDEdit(t0=level, **how)(MODEL, Z, given, noise())
    boomerang = Boomerang(t_boom=level, **how)(MODEL, Z, given, noise())
    assert torch.equal(edited.pixels, boomerang.pixels)
    assert torch.equal(edited.sigmas, boomerang.sigmas)


def test_a_guide_takes_the_image_s_place() -> None:
    edited = SDEdit()(MODEL, Z, Given(labels=LABELS, guide=GUIDE), noise())
    assert torch.equal(edited.pixels, Boomerang(t_boom=0.5)(MODEL, GUIDE, Given(labels=LABELS), noise()).pixels)


@pytest.mark.parametrize("guide", [None, GUIDE])
@pytest.mark.parametrize("solver", ["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("level", [0.0, 0.6])
def test_kept_pixels_are_the_image_s_bit_for_bit(guide: Tensor | None, solver: Any, level: Any) -> None:
    operator = SDEdit(t0=level, repeats=2, solver=solver, steps=3)
    out = operator(MODEL, Z, Given(mask=MASK, guide=guide), noise()).pixels
    changed = MASK.bool().expand_as(Z)
    assert torch.equal(out[~changed], Z[~changed])
    start = Z if guide is None else guide
    assert torch.equal(out[changed], start[changed]) == (level == 0)


def test_with_a_mask_that_keeps_nothing_it_is_as_without() -> None:
    masked, free = (
        SDEdit(repeats=2)(MODEL, Z, Given(mask=mask, guide=GUIDE), noise()).pixels
        for mask in (torch.ones_like(MASK), None)
    )
    assert torch.equal(masked, free)


def test_it_is_the_paper_s_algorithm() -> None:
    """Algorithm 3 (variance preserving), in the words of the paper: x_t, ᾱ and one e for a whole pass."""
    steps, repeats = 5, 3

    def denoise(x: Tensor, alpha: Tensor) -> Tensor:  # E[x0 | x_t] for x0 ~ N(.3, .5²)
        return (0.25 * alpha.sqrt() * x + (1 - alpha) * 0.3) / (0.25 * alpha + 1 - alpha)

    sigmas = SDEdit(steps=steps).schedule(MODEL, LEVELS.sigma(torch.tensor([0.5])))[0]
    alphas, draw = 1 / (1 + sigmas**2), noise()
    x0, keep = torch.where(MASK.bool(), GUIDE, Z).double(), (1 - MASK).double()
    for _ in range(repeats):
        e = draw(Z).double()
        x = alphas[0].sqrt() * x0 + (1 - alphas[0]).sqrt() * e
        for now, then in pairwise(alphas):
            beta = 1 - now / then
            mean = then.sqrt() * beta / (1 - now) * denoise(x, now) + (1 - beta).sqrt() * (1 - then) / (1 - now) * x
            x = mean + (beta * (1 - then) / (1 - now)).sqrt() * draw(Z).double()
            x = (1 - keep) * x + keep * (then.sqrt() * Z.double() + (1 - then).sqrt() * e)
        x0 = (1 - keep) * x + keep * Z.double()
    out = SDEdit(steps=steps, repeats=repeats)(MODEL, Z, Given(mask=MASK, guide=GUIDE), noise()).pixels
    torch.testing.assert_close(out.double(), x0, rtol=1e-5, atol=1e-5)


def test_every_repeat_leads_further_from_the_guide() -> None:
    """Closed form: with the Gaussian's own flow each pass of Euler contracts by s/√(s²+σ²)."""
    operator = [SDEdit(t0={"sigma": 0.5}, steps=60, repeats=k, condition="none") for k in (1, 2, 3)]
    far = [(op(MODEL, Z + 9, Given(), noise()).pixels - 0.3).mean().item() for op in operator]
    assert far[1] / far[0] == pytest.approx(far[2] / far[1], rel=0.03)
    assert far[1] / far[0] == pytest.approx(0.5, abs=0.02)  # both halves draw: s²/(s²+σ²)


def test_levels_out_of_range_are_refused_and_latents_are_not() -> None:
    with pytest.raises(ValidationError, match=r"a fraction of T lies in \[0, 1\]"):
        SDEdit(t0=1.2)  # type: ignore[arg-type]
    latent = ClosedForm(denoise=MODEL.denoise, levels=LEVELS, size=(5, 7), space="latent")
    SDEdit().check(latent, None)
    assert SDEdit()(latent, Z, Given(), noise()).pixels.isfinite().all()
