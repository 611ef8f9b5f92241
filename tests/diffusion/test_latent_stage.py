"""Each stage against numpy and scipy, on images whose sides differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage
from torch import Tensor

from pipeline.diffusion.latent_stage import (
    AnyImageStage,
    AnyStage,
    Blur,
    Checkerboard,
    LatentBlend,
    LatentNoise,
    LatentRotate,
    LatentScale,
    LatentStage,
    Normalise,
    pattern,
    staged,
)


def images(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (2, 3, 11, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LATENT, IMAGE = images(0), images(1)


def check(stage: LatentStage, expected: np.ndarray, latent: Tensor = LATENT, tolerance: float = 1e-12) -> None:
    before = latent.clone()
    found = stage(latent, IMAGE)
    assert torch.equal(latent, before)
    assert (found.shape, found.dtype) == (latent.shape, latent.dtype)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("over", "axes"), [("sample", (1, 2, 3)), ("channel", (2, 3))])
def test_normalise(over: str, axes: tuple[int, ...]) -> None:
    skewed = 3 + 2 * LATENT * torch.tensor([1.0, 2, 3])[:, None, None]
    x = skewed.numpy()
    check(Normalise(over=over), (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True), skewed)


def test_normalise_of_what_does_not_vary_is_zero() -> None:
    check(Normalise(), np.zeros(LATENT.shape), torch.full_like(LATENT, 5))


def test_scale_and_blend() -> None:
    check(LatentScale(factor=1.7), 1.7 * LATENT.numpy())
    check(LatentBlend(share=0.3), 0.7 * LATENT.numpy() + 0.3 * IMAGE.numpy())
    assert torch.equal(LatentBlend(share=1)(LATENT, IMAGE), IMAGE)


def test_noise_is_one_pattern_for_all_samples() -> None:
    n = pattern(LATENT, 4)
    check(LatentNoise(amount=0.3, seed=4), LATENT.numpy() + 0.3 * n.numpy()[None])
    assert not torch.equal(n, pattern(LATENT, 5))
    many = pattern(images(0, 1, 3, 100, 100), 0)
    assert (many.mean().item(), many.std().item()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))


@pytest.mark.parametrize("square", [1, 3, 4, 50])
def test_checkerboard(square: int) -> None:
    rows, columns = np.indices((11, 7)) // square
    dark = (rows + columns) % 2 == 1
    check(Checkerboard(square=square), np.where(dark, IMAGE.numpy(), LATENT.numpy()))
    noise = pattern(LATENT, 2).numpy()
    check(Checkerboard(square=square, other="noise", seed=2), np.where(dark, noise, LATENT.numpy()))


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_blur_is_scipys(sigma: float) -> None:
    check(
        Blur(sigma=sigma),
        ndimage.gaussian_filter(LATENT.numpy(), sigma, mode="reflect", truncate=8, axes=(2, 3)),
        tolerance=1e-6,
    )


@pytest.mark.parametrize(("interpolation", "order"), [("bilinear", 1), ("nearest", 0)])
@pytest.mark.parametrize("degrees", [-200.0, 0.0, 17.0, 45.5])
def test_rotation_is_scipys(interpolation: str, order: int, degrees: float) -> None:
    expected = ndimage.rotate(LATENT.numpy(), degrees, axes=(3, 2), reshape=False, order=order, mode="nearest")
    check(LatentRotate(degrees=degrees, interpolation=interpolation), expected, tolerance=1e-9)


def test_a_quarter_turn_is_anticlockwise_and_exact() -> None:
    square = images(3, 2, 3, 7, 7)
    for interpolation in ("nearest", "bilinear"):
        check(LatentRotate(degrees=90, interpolation=interpolation), torch.rot90(square, 1, (2, 3)).numpy(), square)


def test_stages_act_in_order_on_each_row_by_itself() -> None:
    stages = [
        Normalise(),
        LatentBlend(share=0.2),
        Checkerboard(square=2),
        LatentRotate(degrees=9),
        LatentScale(factor=2),
        Blur(sigma=1),
    ]
    expected = LATENT
    for stage in stages:
        expected = stage(expected, IMAGE)
    found = staged(stages, LATENT, IMAGE)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, staged(stages[::-1], LATENT, IMAGE))
    torch.testing.assert_close(staged(stages, LATENT[1:], IMAGE[1:]), found[1:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "blend", "share": 1.2},
        {"name": "checkerboard", "square": 0},
        {"name": "blur", "sigma": 0},
        {"name": "scale", "factor": 0},
        {"name": "noise", "amount": -1},
        {"name": "twirl"},
    ],
)
def test_what_a_recipe_may_not_say(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyStage).validate_python(wrong)


def test_only_blur_and_rotation_are_for_the_image() -> None:
    with pytest.raises(ValidationError, match="'blur', 'rotate'"):
        TypeAdapter(AnyImageStage).validate_python({"name": "noise", "amount": 0.1})
