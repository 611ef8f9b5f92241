"""Anagrams, where the answer is known; the contract is tested over the registry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators.anagram import Anagram
from pipeline.operators.contract import Given, Transformed

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
KEYS = ["a", "b.c", "d/e"]
VIEWS = ["identity", "rotate_90", {"name": "pixel_permutation", "seed": 4}]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MEANS = [normal(3, 6, 6, seed=i) for i in range(3)]


def model(std: float, **changes: Any) -> ClosedForm:
    options: dict[str, Any] = {
        "denoise": Gaussian(mean=0.0, std=std),
        "levels": LEVELS,
        "size": (6, 6),
        "by_class": tuple(Gaussian(mean=mean, std=std) for mean in MEANS),
        "class_names": ("x", "y", "z"),
    }
    return ClosedForm(**(options | changes))


def apply(operator: Anagram, std: float, z: Tensor, labels: Tensor | None = None) -> Transformed:
    return operator(model(std), z, Given(labels=labels), KeyedNoise(b"salt", KEYS[: len(z)], "anagram", 0))


def mean_of_turned() -> Tensor:
    """1/N Σ vᵢ⁻¹(μᵢ), the views undone by hand."""
    order = torch.randperm(36, generator=torch.Generator().manual_seed(4))
    third = torch.empty(3, 36)
    third[:, order] = MEANS[2].flatten(1)
    return (MEANS[0] + torch.rot90(MEANS[1], -1, (1, 2)) + third.reshape(3, 6, 6)) / 3


@pytest.mark.parametrize("solver", ["ancestral", "euler", "heun", "dpmpp_2m_sde"])
def test_without_variance_the_output_is_the_mean_of_what_the_views_ask_for(solver: str) -> None:
    operator = Anagram(views=VIEWS, conditions=["x", 1, "own"], guidance=1, steps=4, solver=solver)
    found = apply(operator, 0.0, normal(3, 3, 6, 6, seed=7), torch.full((3,), 2))
    torch.testing.assert_close(found.pixels, mean_of_turned().expand(3, -1, -1, -1), rtol=0, atol=1e-5)
    assert list(found.others) == ["view-1", "view-2"]
    assert torch.equal(found.others["view-1"], torch.rot90(found.pixels, 1, (2, 3)))
    assert found.details is not None
    assert found.details[2]["views"][2] == {"name": "pixel_permutation", "seed": 4}


def test_the_walk_is_that_of_the_gaussian_around_that_mean() -> None:
    """Step by step, not only its end: Euler in float64, (s²x + σ²μ)/(s² + σ²) with μ of all views."""
    operator = Anagram(views=VIEWS, conditions=["x", "y", "z"], guidance=1, steps=7, solver="euler")
    found = apply(operator, 0.5, torch.zeros(3, 3, 6, 6))
    sigmas, mu = found.sigmas[:, :, None, None, None], mean_of_turned().double()
    x = sigmas[:, 0] * KeyedNoise(b"salt", KEYS, "anagram", 0)(torch.zeros(3, 3, 6, 6)).double()
    for i in range(7):
        x0 = (0.25 * x + sigmas[:, i] ** 2 * mu) / (0.25 + sigmas[:, i] ** 2)
        x = x0 + sigmas[:, i + 1] / sigmas[:, i] * (x - x0)
    torch.testing.assert_close(found.pixels.double(), x, rtol=0, atol=1e-4)


def test_guidance_comes_before_the_inverse_view_and_the_mean() -> None:
    operator = Anagram(views=VIEWS[:2], conditions=["x", "y"], guidance=2.5, steps=1)
    found = apply(operator, 0.0, torch.zeros(3, 3, 6, 6))
    expected = 2.5 * (MEANS[0] + torch.rot90(MEANS[1], -1, (1, 2))) / 2  # the unconditional mean is 0
    torch.testing.assert_close(found.pixels, expected.expand(3, -1, -1, -1), rtol=0, atol=1e-5)


def test_alternate_ends_on_the_view_whose_turn_is_last() -> None:
    for steps, last in [(3, MEANS[0]), (4, torch.rot90(MEANS[1], -1, (1, 2)))]:
        operator = Anagram(
            views=VIEWS[:2], conditions=["x", "y"], guidance=1, steps=steps, reduce="alternate", start=[0.4, 1]
        )
        found = apply(operator, 0.0, torch.zeros(3, 3, 6, 6))
        torch.testing.assert_close(found.pixels, last.expand(3, -1, -1, -1), rtol=0, atol=1e-5)


def test_pure_noise_holds_nothing_of_the_image() -> None:
    for start, alike in [(1.0, True), (0.9, False), ({"sigma": 1e9}, True)]:
        operator = Anagram(views=VIEWS[:2], conditions=["x", "y"], steps=3, start=start)
        one, other = (apply(operator, 0.5, z).pixels for z in (torch.zeros(3, 3, 6, 6), torch.ones(3, 3, 6, 6)))
        assert torch.equal(one, other) == alike


def test_sign_is_part_of_a_view() -> None:
    operator = Anagram(views=["identity", "negate"], conditions=["x", "x"], guidance=1, steps=2)
    found = apply(operator, 0.0, torch.zeros(1, 3, 6, 6))
    torch.testing.assert_close(found.pixels, torch.zeros_like(found.pixels), rtol=0, atol=1e-5)
    assert torch.equal(found.others["view-1"], -found.pixels)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"views": VIEWS, "conditions": ["x", "y"]}, "2 conditions for 3 views: one for each is needed"),
        ({"views": [], "conditions": []}, "at least 1"),
        (
            {"views": VIEWS[:1], "conditions": ["x"], "reduce": "alternate", "solver": "heun"},
            "reduce alternate needs solver ancestral or euler",
        ),
        ({"views": [{"name": "rotate", "degrees": 45}], "conditions": ["x"]}, "not orthogonal"),
    ],
)
def test_configurations_that_cannot_work(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        Anagram(**settings)


@pytest.mark.parametrize(
    ("view", "condition", "changes", "sentence"),
    [
        ("rotate_90", "x", {"size": (6, 7)}, "anagram: view rotate needs a square for a quarter turn, .*6×7"),
        ("jigsaw", "x", {}, r"anagram: view jigsaw needs a square whose side divides by 4 \(pieces\)"),
        ("negate", "w", {}, "condition 'w' is not a class.*x, y, z"),
        ("negate", "x", {"space": "latent"}, "anagram: view negate changes the sign of pixels, and the model works on"),
        ("negate", "x", {"by_class": ()}, "the model has no classes"),
    ],
)
def test_models_that_do_not_fit(view: str, condition: str, changes: dict[str, Any], sentence: str) -> None:
    operator = Anagram(views=["identity", view], conditions=["x", condition])
    with pytest.raises(UserError, match=sentence):
        operator.check(model(0.5, **({"class_names": None} if "by_class" in changes else {}) | changes), None)
    Anagram(views=["identity", "rotate_90"], conditions=["x", 2]).check(model(0.5), None)
