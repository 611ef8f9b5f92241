"""Factorized diffusion, where the answer is known; the contract is tested over the registry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators.contract import Given, Transformed
from pipeline.operators.factorized import Factorized

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
KEYS = ["a", "b.c", "d/e"]
HYBRID = {"kind": "hybrid", "sigma": 64 / 11}  # 1 pixel at 11 × 13


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MEANS = [normal(3, 11, 13, seed=i) for i in range(3)]
REAL = normal(3, 3, 11, 13, seed=9)


def model(std: float, **changes: Any) -> ClosedForm:
    options: dict[str, Any] = {
        "denoise": Gaussian(mean=0.0, std=std),
        "levels": LEVELS,
        "size": (11, 13),
        "by_class": tuple(Gaussian(mean=mean, std=std) for mean in MEANS),
    }
    return ClosedForm(**(options | changes))


def apply(operator: Factorized, std: float, z: Tensor = REAL, mask: Tensor | None = None) -> Transformed:
    return operator(model(std), z, Given(mask=mask), KeyedNoise(b"salt", KEYS[: len(z)], "factorized", 0))


def blurred(x: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(x.numpy(), [0] * (x.ndim - 2) + [sigma] * 2, radius=int(8 * sigma) + 1))


def test_without_variance_the_output_is_put_together_from_what_each_condition_asks_for() -> None:
    """Two and three bands against scipy, the rest by hand."""
    a, b, c = MEANS
    half = torch.arange(13) < 6
    grey = torch.stack([a.mean(0)] * 3) + b - b.mean(0)
    expected: list[tuple[Any, list[int], Tensor]] = [
        (HYBRID, [0, 1], blurred(a, 1) + b - blurred(b, 1)),
        (
            {"kind": "triple", "sigmas": [64 / 11, 128 / 11]},
            [0, 1, 2],
            blurred(a, 2) + blurred(b, 1) - blurred(b, 2) + c - blurred(c, 1),
        ),
        ("colour", [0, 1], grey),
        ("spatial", [0, 1], torch.where(half, a, b)),
    ]
    for components, conditions, mean in expected:
        found = apply(Factorized(components=components, conditions=conditions, guidance=1, steps=3), 0.0)
        torch.testing.assert_close(found.pixels, mean.expand(3, -1, -1, -1), rtol=0, atol=1e-5)
        assert list(found.others) == {"spatial": [], "colour": ["grey"]}.get(str(components), ["low"])


def test_a_mask_says_what_is_inside() -> None:
    mask = (normal(3, 1, 11, 13, seed=5) > 0).float()
    found = apply(Factorized(components="spatial", conditions=[0, 1], guidance=1, steps=2), 0.0, mask=mask).pixels
    torch.testing.assert_close(found, torch.where(mask > 0, MEANS[0], MEANS[1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("components", "known"), [("colour", "grey"), ("colour", "colour"), ("spatial", "outside")])
@pytest.mark.parametrize("solver", ["ancestral", "heun"])
def test_inverse_by_a_projection_keeps_the_known_component_exactly(components: str, known: str, solver: str) -> None:
    operator = Factorized(components=components, conditions=[0, 1], inverse=known, steps=5, solver=solver, guidance=1)
    found = apply(operator, 0.5).pixels
    part = dict(zip(operator.components.names, operator.components.parts(REAL, None), strict=True))[known]
    torch.testing.assert_close(
        part(found), part(REAL), rtol=0, atol=0 if components == "spatial" else 1e-6 * found.abs().max()
    )
    assert (found - part(found) - (REAL - part(REAL))).std() > 0.1  # the rest is new


@pytest.mark.parametrize("known", ["low", "high"])
def test_inverse_by_a_blur_misses_the_known_component_by_what_the_formula_says(known: str) -> None:
    """Output x − f(x) + f(y) of x = Σ fᵢ(μᵢ); f of it misses f(y) by f(1 − f)(x − y), at most a quarter of x − y."""
    found = apply(Factorized(components=HYBRID, conditions=[0, 1], guidance=1, inverse=known, steps=4), 0.0).pixels
    x = (blurred(MEANS[0], 1) + MEANS[1] - blurred(MEANS[1], 1)).expand(3, -1, -1, -1)
    low = x - blurred(x, 1) + blurred(REAL, 1)
    high = blurred(x, 1) + REAL - blurred(REAL, 1)
    torch.testing.assert_close(found, low if known == "low" else high, rtol=0, atol=1e-5)

    def f(image: Tensor) -> Tensor:
        return blurred(image, 1) if known == "low" else image - blurred(image, 1)

    missed, apart = f(found) - f(REAL), x - REAL
    torch.testing.assert_close(missed, f(apart) - f(f(apart)), rtol=0, atol=1e-5)
    assert 0 < missed.norm() <= 0.25 * apart.norm()


def test_the_known_component_is_noised_afresh_before_each_step() -> None:
    """Seen from the estimator: grey of x is grey of y plus white noise of its level, new at every step."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watching(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x, sigma))
        return torch.zeros_like(x)

    z = normal(1, 3, 11, 13, seed=3)
    operator = Factorized(components="colour", conditions=["none", "none"], guidance=1, inverse="grey", steps=4)
    watched = ClosedForm(denoise=watching, levels=LEVELS, size=(11, 13))
    operator(watched, z, Given(), KeyedNoise(b"salt", ["k"], "factorized", 0))
    noises = [(x[:1] - z).mean(1).flatten() / (sigma[0] / 3**0.5) for x, sigma in seen]
    assert len(noises) == 4
    for noise in noises:
        assert noise.std().item() == pytest.approx(1, abs=0.2)
    assert torch.corrcoef(torch.stack(noises)).triu(1).abs().max() < 0.3


def test_pure_noise_holds_nothing_of_the_image() -> None:
    for start, alike in [(1.0, True), (0.9, False)]:
        operator = Factorized(components=HYBRID, conditions=[0, 1], steps=3, start=start)
        assert torch.equal(apply(operator, 0.5).pixels, apply(operator, 0.5, torch.zeros_like(REAL)).pixels) == alike


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"components": "triple", "conditions": [0, 1]}, "2 conditions for triple: one each.*low, middle, high"),
        ({"components": "hybrid", "conditions": [0, 1], "inverse": "grey"}, "inverse is 'grey'.*hybrid are low, high"),
        ({"components": "motion", "conditions": [0, 1], "inverse": "moving"}, "inverse moving.*only still"),
    ],
)
def test_configurations_that_cannot_work(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Factorized(**settings)


def test_projecting_on_a_motion_blur_would_amplify() -> None:
    """Why `moving` cannot be known: x − f(x) is up to 1.2 times as large as x."""
    x = torch.eye(400, dtype=torch.float64).reshape(400, 1, 20, 20)
    still = Factorized(components="motion", conditions=[0, 1]).components.parts(x, None)[1]
    assert float(torch.linalg.eigvals(still(x).reshape(400, 400)).abs().max()) == pytest.approx(1.22, abs=0.02)


def test_models_that_do_not_fit() -> None:
    class Grey(ClosedForm):
        @property
        def shape(self) -> tuple[int, int, int]:
            return (1, *self.size)

    options: dict[str, Any] = {"denoise": Gaussian(), "levels": LEVELS, "size": (11, 13)}
    with pytest.raises(UserError, match="components colour need a model of colour images, and this one's are grey"):
        Factorized(components="colour", conditions=["none", "none"], guidance=1).check(Grey(**options), None)
    with pytest.raises(UserError, match="factorized takes the colours of pixels apart, and the model works on latents"):
        Factorized(components="colour", conditions=[0, 1]).check(model(0.5, space="latent"), None)
    with pytest.raises(UserError, match="condition 3 is not a class"):
        Factorized(components="hybrid", conditions=[0, 3]).check(model(0.5), None)
    Factorized(components="colour", conditions=[0, 1]).check(model(0.5), None)
