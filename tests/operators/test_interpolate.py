"""Interpolation where the flow is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, per_row
from pipeline.diffusion.inversion import slerp
from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.model import Rows
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Given, Interpolate, Transformed
from tests.text_model import Prompted, mean_of

F64 = torch.float64
MEAN, STD = 0.3, 0.5
MODEL = ClosedForm(
    denoise=Gaussian(mean=MEAN, std=STD),
    by_class=(Gaussian(mean=0.5, std=STD), Gaussian(mean=-0.2, std=STD)),
    class_names=("a", "b"),
    levels=levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"}),
    size=(5, 7),
)
KEYS = ["k", "l", "m"]


def draw(seed: int) -> Tensor:
    return MEAN + STD * torch.randn(3, 3, 5, 7, dtype=F64, generator=torch.Generator().manual_seed(seed))


Z, GUIDE = draw(0), draw(1)


def between(guide: Tensor | None = GUIDE, **settings: Any) -> Transformed:
    operator = Interpolate(**{"condition": "none", "steps": 60, **settings})
    operator.check(MODEL, None)
    assert (guide is None) <= ("guide" not in operator.needs)
    return operator(MODEL, Z, Given(guide=guide), KeyedNoise(b"salt", KEYS, "interpolate", 0))


def test_the_ends_are_the_two_images() -> None:
    for share, end in ((0, Z), (1, GUIDE)):
        torch.testing.assert_close(between(share=share).pixels, end, atol=1e-3, rtol=0)
        torch.testing.assert_close(between(share=share, towards="b", condition="a").pixels, end, atol=1e-3, rtol=0)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_between_gaussian_images_it_is_the_great_circle(share: float) -> None:
    """The flow of a Gaussian is affine, so slerp of latents is slerp of images about the mean, from far up."""
    found = between(share=share, steps=200, level={"sigma": 1e4}).pixels
    expected = MEAN + slerp(Z - MEAN, GUIDE - MEAN, torch.full((3,), share))
    torch.testing.assert_close(found, expected, atol=3e-3, rtol=0)


def test_between_conditions_the_estimates_are_mixed() -> None:
    """Of one width: the latent of N(m_a) comes down to N(m_a + a·(m_b − m_a))."""
    share = torch.tensor([0.3, 0.3, 0.3], dtype=F64)
    found = between(None, condition="a", towards="b", share=0.3, steps=200, level={"sigma": 1e4}).pixels
    torch.testing.assert_close(found, Z + (share * (-0.2 - 0.5))[:, None, None, None], atol=3e-3, rtol=0)


@pytest.mark.parametrize("guide", [None, GUIDE])
def test_a_path_is_its_shares_one_by_one(guide: Tensor | None) -> None:
    way = {"towards": "b", "condition": "a", "steps": 5}
    done = between(guide, path=3, share=0.25, **way)
    assert list(done.others) == ["path-1", "path-2", "path-3"]
    for image, share in zip(done.others.values(), (0, 0.5, 1), strict=True):
        torch.testing.assert_close(image, between(guide, share=share, **way).pixels)
    assert torch.equal(done.pixels, between(guide, share=0.25, **way).pixels)
    assert list(between(path=1).others) == ["path-1"]


def test_each_sample_draws_its_share_and_says_so() -> None:
    done = between(share=[0.2, 0.8], steps=5)
    assert done.details is not None
    shares = [detail["share"] for detail in done.details]
    assert len(set(shares)) == 3
    assert all(0.2 <= share <= 0.8 for share in shares)
    for row, share in enumerate(shares):
        torch.testing.assert_close(done.pixels[row], between(share=share, steps=5).pixels[row])


def test_a_level_drawn_is_apart_from_the_share_drawn() -> None:
    keys = [str(i) for i in range(300)]
    z = torch.zeros(300, 1, 2, 2, dtype=F64)
    operator = Interpolate(share=[0, 1], level=[0.1, 0.9], towards="b", steps=1)
    done = operator(MODEL, z, Given(), KeyedNoise(b"salt", keys, "interpolate", 0))
    assert done.details is not None
    shares = torch.tensor([detail["share"] for detail in done.details], dtype=F64)
    levels = MODEL.levels.fraction(done.sigmas[:, 0])
    assert torch.corrcoef(torch.stack([shares, levels]))[0, 1].abs() < 0.2


def test_bad_input() -> None:
    for share in (1.2, [0.8, 1.2], [-0.1, 0.5], [0.1, 0.2, 0.3]):
        with pytest.raises(ValidationError, match="share"):
            Interpolate(share=share)
    with pytest.raises(UserError, match="'c' is not a class"):
        Interpolate(towards="c").check(MODEL, None)
    assert Interpolate().needs == {"guide"}
    assert Interpolate(towards="a").needs == frozenset()


class Uneven(Prompted):
    """Estimates under two prompts differ in contrast, too."""

    def denoiser(self, rows: Rows) -> Denoiser:
        denoise, contrast = super().denoiser(rows), torch.tensor([1 + mean_of(row) for row in rows or []])
        return lambda x, sigma: per_row(contrast, x) * denoise(x, sigma)


PROMPTED = Prompted(denoise=Gaussian(), levels=MODEL.levels, size=(5, 7))
CAPTIONS = ["a cat", "a dog", "two birds"]


def moved(guidance: Any = 1.0, model: Prompted = PROMPTED, **settings: Any) -> Transformed:
    settings = {"towards": "a fox", "mix": "embeddings", "steps": 40, "guidance": guidance, **settings}
    operator = Interpolate(**settings)
    operator.check(model, None)
    given = Given(captions=CAPTIONS)
    return operator(model, Z.float(), given, KeyedNoise(b"salt", KEYS, "interpolate", 0))


def test_embeddings_move_from_one_prompt_to_the_other() -> None:
    """Up under each row's caption; down under a prompt between it and the other: a shift of the mean."""
    done = moved(share=[0.2, 0.9], path=3)
    assert done.details is not None
    frames = [done.others[f"path-{i}"] for i in (1, 2, 3)]
    for image, shares in (
        (done.pixels, [row["share"] for row in done.details]),
        *zip(frames, ([0] * 3, [0.5] * 3, [1] * 3), strict=True),
    ):
        for row, caption, start, share in zip(image, CAPTIONS, Z.float(), shares, strict=True):
            shift = share * (mean_of("a fox") - mean_of(caption))
            torch.testing.assert_close(row, start + shift, atol=2e-2, rtol=0)


def test_the_guidance_of_embeddings_is_that_of_estimates_at_the_ends() -> None:
    how = {"scale": 2.5, "rescale": 0.3, "interval": {"sigma": [0.1, 5]}, "negative": "a pig"}
    uneven = Uneven(denoise=Gaussian(), levels=MODEL.levels, size=(5, 7))
    for share in (0, 1):
        ends = [moved(how, uneven, share=share, mix=mix, steps=5).pixels for mix in ("embeddings", "estimates")]
        torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moved(how, steps=5).pixels, moved(steps=5).pixels, atol=1e-3)


def test_embeddings_need_two_prompts() -> None:
    with pytest.raises(ValidationError, match="mix embeddings goes from one prompt to another"):
        Interpolate(mix="embeddings")
    for model, settings, why in (
        (MODEL, {"condition": "a", "towards": "b"}, "mix embeddings: the model takes no prompts"),
        (PROMPTED, {"towards": "none"}, "mix embeddings: none is not a prompt"),
    ):
        with pytest.raises(UserError, match=why):
            Interpolate(mix="embeddings", **settings).check(model, None)  # type: ignore[arg-type]
