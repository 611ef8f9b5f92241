"""Components: linear, sum to the image, equal to scipy's filters; and the estimate they are put together from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import convolve, gaussian_filter
from torch import Tensor

from pipeline.diffusion.components import AnyComponents, Components, gaussian_blur, require_partition
from pipeline.diffusion.denoisers import each, with_components
from pipeline.models.gaussian import Gaussian

F64 = torch.float64


def components(written: Any) -> Components:
    return TypeAdapter(AnyComponents).validate_python(written)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


CASES: list[Any] = [
    "hybrid",
    {"kind": "hybrid", "sigma": 40},  # wider than the image: mirrored more than once
    "triple",
    {"kind": "triple", "sigmas": [5, 9]},
    "colour",
    "motion",
    {"kind": "motion", "kernel": 31},
    "spatial",
]
every_kind = pytest.mark.parametrize("written", CASES, ids=str)


@every_kind
def test_linear_and_sum_to_the_image(written: Any) -> None:
    x, y = normal(2, 3, 11, 13), normal(2, 3, 11, 13, seed=1)
    before, kind = x.clone(), components(written)
    parts = kind.parts(x, None)
    assert len(parts) == len(kind.names)
    torch.testing.assert_close(sum(part(x) for part in parts), x, rtol=0, atol=1e-12)
    for part in parts:
        assert part(x).shape == x.shape
        torch.testing.assert_close(part(3 * x - y), 3 * part(x) - part(y), rtol=0, atol=1e-12)
        assert torch.equal(part(x)[1:], part(x[1:]))  # each sample for itself, bit for bit
    assert torch.equal(x, before)
    constant = torch.full_like(x, 0.7)
    if kind.kind != "spatial":
        torch.testing.assert_close(parts[0](constant), constant, rtol=0, atol=1e-12)
    require_partition(parts, x)
    require_partition(kind.parts(x.float(), None), x.float())


def test_low_pass_is_scipys() -> None:
    x = normal(3, 64, 67)
    low, high = components("hybrid").parts(x, None)
    expected = np.stack([gaussian_filter(plane, 2, mode="reflect", radius=17) for plane in x.numpy()])
    np.testing.assert_allclose(low(x).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(high(x).numpy(), x.numpy() - expected, atol=1e-12)


def test_sigma_is_in_pixels_at_64_and_grows_with_the_image() -> None:
    x = normal(1, 128, 150)
    torch.testing.assert_close(components("hybrid").parts(x, None)[0](x), gaussian_blur(4, x)(x))


def test_three_bands() -> None:
    x = normal(1, 64, 64)
    low, middle, high = (part(x) for part in components("triple").parts(x, None))
    torch.testing.assert_close(low, gaussian_blur(2, x)(x))
    torch.testing.assert_close(low + middle, gaussian_blur(1, x)(x))
    assert middle.std() < high.std()


def test_motion_is_a_diagonal_kernel() -> None:
    x = normal(2, 11, 13)
    moving, _ = components("motion").parts(x, None)
    expected = np.stack([convolve(plane, np.eye(7) / 7, mode="reflect") for plane in x.numpy()])
    np.testing.assert_allclose(moving(x).numpy(), expected, atol=1e-12)


def test_colour_and_halves_and_mask_by_hand() -> None:
    x = normal(2, 3, 5, 7)
    grey, colour = components("colour").parts(x, None)
    torch.testing.assert_close(grey(x), (x[:, :1] + x[:, 1:2] + x[:, 2:]).repeat(1, 3, 1, 1) / 3)
    torch.testing.assert_close(colour(x).sum(1), torch.zeros(2, 5, 7, dtype=F64), rtol=0, atol=1e-12)
    inside, outside = components("spatial").parts(x, None)
    assert torch.equal(inside(x)[..., :3], x[..., :3])
    assert torch.equal(outside(x)[..., 3:], x[..., 3:])
    assert not bool(inside(x)[..., 3:].any())
    mask = torch.zeros(2, 1, 5, 7)
    mask[0, 0, 1, 2] = mask[1, 0, 4, 6] = 1
    inside, _ = components("spatial").parts(x, mask)
    assert torch.equal(inside(x)[0, :, 1, 2], x[0, :, 1, 2])
    assert int((inside(x) != 0).sum()) == 6


def test_components_that_miss_something_are_refused_with_the_figure() -> None:
    with pytest.raises(ValueError, match=r"do not sum to the image: it is missed by up to \d\.\d+ standard deviations"):
        require_partition([lambda x: 0.5 * x, lambda x: 0.4 * x], torch.zeros(1, 3, 5, 7))


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"kind": "motion", "kernel": 6}, "kernel is 6: it must be odd"),
        ({"kind": "triple", "sigmas": [2, 1]}, r"sigmas are \(2.0, 1.0\)"),
        ({"kind": "hybrid", "sigma": 0}, "greater than 0"),
        ("wavelet", "hybrid.*spatial"),
    ],
)
def test_bad_options(written: Any, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        components(written)


@every_kind
def test_the_estimate_is_the_sum_of_each_conditions_component(written: Any) -> None:
    """On Gaussians of one deviation the mixture is one more Gaussian, its mean Σ fᵢ(μᵢ)."""
    x, sigma = normal(3, 3, 11, 13, seed=8), torch.tensor([0.1, 1.0, 7.0], dtype=F64)
    parts = components(written).parts(x, None)
    means = [normal(3, 11, 13, seed=i) for i in range(len(parts))]
    estimate = each(*(Gaussian(mean=mean, std=0.6) for mean in means))
    mean = sum(part(mean[None]) for part, mean in zip(parts, means, strict=True))
    assert isinstance(mean, Tensor)
    expected = (0.36 * x + sigma[:, None, None, None] ** 2 * mean) / (0.36 + sigma[:, None, None, None] ** 2)
    torch.testing.assert_close(with_components(estimate, parts)(x, sigma), expected, rtol=1e-11, atol=1e-11)
