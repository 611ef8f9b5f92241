"""What estimates are combined to: guidance, composition and mixtures against closed forms and hand formulas."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, Joint, classifier_guidance, compose, each, guided, mixture
from pipeline.models.gaussian import Gaussian, GaussianMixture

F64 = torch.float64
SIGMA = torch.tensor([0.05, 0.4, 1.7, 30.0, 0.9], dtype=F64)
A, B, C = Gaussian(mean=1.5, std=0.3), Gaussian(mean=-0.7, std=0.9), Gaussian(mean=0.2, std=0.5)


def points(seed: int = 0) -> Tensor:
    return torch.randn(5, 2, 3, 7, dtype=F64, generator=torch.Generator().manual_seed(seed))


def by_hand(estimates: Sequence[tuple[float, Tensor]]) -> Tensor:
    return torch.stack([weight * x0 for weight, x0 in estimates]).sum(0)


# --- classifier-free guidance ---


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, 7.5])
def test_guidance_of_two_conditions_each_with_its_own_negative_and_point(scale: float) -> None:
    x, y = points(0), points(1)
    first, second = guided(each(A, B, C, A), scale)([x, y], SIGMA)
    torch.testing.assert_close(first, by_hand([(1 - scale, C(x, SIGMA)), (scale, A(x, SIGMA))]))
    torch.testing.assert_close(second, by_hand([(1 - scale, A(y, SIGMA)), (scale, B(y, SIGMA))]))


def test_guidance_is_the_power_of_a_density() -> None:
    """Of one width, N(m⁺)^w / N(m⁻)^(w−1) is the Gaussian of mean m⁻ + w·(m⁺ − m⁻), at every level."""
    x = points()
    (led,) = guided(each(Gaussian(mean=1, std=0.4), Gaussian(mean=0.5, std=0.4)), 3.0)([x], SIGMA)
    torch.testing.assert_close(led, Gaussian(mean=2, std=0.4)(x, SIGMA))


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_rescale_is_that_of_diffusers(rescale: float) -> None:
    x = points()
    plain, towards = guided(each(A, B), 5.0)([x], SIGMA)[0], A(x, SIGMA)
    (led,) = guided(each(A, B), 5.0, rescale=rescale)([x], SIGMA)
    torch.testing.assert_close(led, rescale_noise_cfg(plain, towards, guidance_rescale=rescale))
    if rescale == 1.0:
        torch.testing.assert_close(led.flatten(1).std(1), towards.flatten(1).std(1))


def test_outside_its_interval_guidance_leaves_a_row_alone() -> None:
    x = points()
    (led,) = guided(each(A, B), 4.0, rescale=0.5, interval=(0.4, 1.7))([x], SIGMA)
    (always,) = guided(each(A, B), 4.0, rescale=0.5)([x], SIGMA)
    inside = torch.tensor([False, True, True, False, True])  # both ends belong to it
    assert torch.equal(led[inside], always[inside])
    assert torch.equal(led[~inside], A(x, SIGMA)[~inside])
    assert not torch.isclose(led[inside], A(x, SIGMA)[inside]).all(1).any()


# --- AND and NOT ---


def test_composition_by_hand() -> None:
    x = points()
    found = compose(each(C, A, B), [1.5, -0.5])(x, SIGMA)
    none = C(x, SIGMA)
    torch.testing.assert_close(found, none + 1.5 * (A(x, SIGMA) - none) - 0.5 * (B(x, SIGMA) - none))


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-3, 3)), min_size=1, max_size=4))
def test_composition_multiplies_densities(terms: list[tuple[float, float]]) -> None:
    """p_∅·Π (p_i/p_∅)^w_i of Gaussians of one width is the Gaussian of mean m_∅ + Σ w_i·(m_i − m_∅)."""
    x, none = points(), 0.25
    denoisers = [Gaussian(mean=mean, std=0.6) for mean in [none, *[mean for mean, _ in terms]]]
    found = compose(each(*denoisers), [weight for _, weight in terms])(x, SIGMA)
    mean = none + sum(weight * (mean - none) for mean, weight in terms)
    torch.testing.assert_close(found, Gaussian(mean=mean, std=0.6)(x, SIGMA), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_composition_of_one_is_guidance(scale: float) -> None:
    x = points()
    torch.testing.assert_close(compose(each(B, A), [scale])(x, SIGMA), guided(each(A, B), scale)([x], SIGMA)[0])


def test_not_is_the_negative_prompt_where_the_weights_cancel() -> None:
    """The paper's ε_c − ε_neg: w_neg = −w_pos leaves ∅ out of the difference."""
    x, none = points(), points(3)
    estimate: Joint = each(lambda x, sigma: none, A, B)
    found = compose(estimate, [2.0, -2.0])(x, SIGMA)
    torch.testing.assert_close(found, none + 2 * (A(x, SIGMA) - B(x, SIGMA)))


# --- classifier guidance ---

MEANS = torch.randn(3, 2, 3, 7, dtype=F64, generator=torch.Generator().manual_seed(5))
MIXTURE = GaussianMixture(means=MEANS, weights=[0.5, 0.2, 0.3], std=0.8)


def log_posterior(x: Tensor, sigma: Tensor) -> Tensor:
    """Of component 1, exact."""
    return MIXTURE.posterior(x, sigma)[:, 1].log()


def test_the_exact_classifier_makes_the_conditional_out_of_the_unconditional_estimate() -> None:
    x, sigma = points(), torch.tensor([0.3, 0.6, 1.0, 5.0, 90.0], dtype=F64)
    conditional = Gaussian(mean=MEANS[1], std=0.8)
    found = classifier_guidance(MIXTURE, log_posterior)(x, sigma)
    torch.testing.assert_close(found, conditional(x, sigma), rtol=1e-9, atol=1e-9)
    found = classifier_guidance(MIXTURE, log_posterior, scale=2.5)(x, sigma)
    expected = guided(each(conditional, MIXTURE), 2.5)([x], sigma)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_classifier_guidance_in_inference_mode_changes_nothing() -> None:
    plain = classifier_guidance(MIXTURE, log_posterior, scale=1.5)(points(), SIGMA)
    with torch.inference_mode():
        x, sigma = points(), SIGMA.clone()
        assert x.is_inference()
        found = classifier_guidance(MIXTURE, log_posterior, scale=1.5)(x, sigma)
        assert not found.requires_grad
        assert torch.equal(x, points())
    assert torch.equal(found.clone(), plain)
    assert not plain.requires_grad


# --- two models ---


def test_mixture_by_hand_with_a_share_for_each_row() -> None:
    x, share = points(), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=F64)
    found = mixture(A, B, share)(x, SIGMA)
    w = share[:, None, None, None]
    torch.testing.assert_close(found, (1 - w) * A(x, SIGMA) + w * B(x, SIGMA))
    assert torch.equal(found[0], A(x, SIGMA)[0])
    assert torch.equal(found[4], B(x, SIGMA)[4])


def test_one_expert_hands_over_to_the_other_and_is_not_asked_needlessly() -> None:
    asked = []

    def fine(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(sigma)
        return B(x, sigma)

    x, denoiser = points(), mixture(A, fine, 1.0, interval=(0.0, 0.9))
    found, small = denoiser(x, SIGMA), SIGMA <= 0.9
    assert torch.equal(found[small], B(x, SIGMA)[small])
    assert torch.equal(found[~small], A(x, SIGMA)[~small])
    assert len(asked) == 1
    assert torch.equal(denoiser(x, SIGMA + 1), A(x, SIGMA + 1))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "denoiser",
    [
        compose(each(MIXTURE, A), [2.0]),
        classifier_guidance(MIXTURE, log_posterior, 2.0),
        mixture(A, MIXTURE, 0.3, interval=(0.1, 2.0)),
    ],
    ids=["compose", "classifier", "mixture"],
)
def test_rows_do_not_know_of_one_another(denoiser: Denoiser) -> None:
    x = points()
    whole = denoiser(x, SIGMA)
    for row in range(len(x)):
        torch.testing.assert_close(denoiser(x[row : row + 1], SIGMA[row : row + 1])[0], whole[row])
