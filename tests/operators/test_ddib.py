"""DDIB where the bridge is known: between Gaussians it is affine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.latent_stage import LatentScale, Normalise
from pipeline.diffusion.levels import FlowLevels, levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Given
from pipeline.operators.contract import Transformed
from pipeline.operators.ddib import DDIB

F64 = torch.float64
A, B = Gaussian(mean=0.3, std=0.5), Gaussian(mean=-1.0, std=0.2)
MODEL = ClosedForm(
    denoise=Gaussian(mean=0.1, std=0.7),
    by_class=(A, B),
    class_names=("a", "b"),
    levels=levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"}),
    size=(5, 7),
)
COARSE = replace(MODEL, levels=FlowLevels(steps=11))  # its smallest σ is 0.1


def draw(count: int = 3) -> Tensor:
    return 0.3 + 0.5 * torch.randn(count, 3, 5, 7, dtype=F64, generator=torch.Generator().manual_seed(0))


def bridge(
    z: Tensor,
    model: ClosedForm = MODEL,
    second: ClosedForm | None = None,
    labels: Tensor | None = None,
    **settings: Any,
) -> Transformed:
    operator = DDIB(**settings)
    operator.check(model, second)
    noise = KeyedNoise(b"salt", [str(i) for i in range(len(z))], "ddib", 0)
    return operator(model, z, Given(second=second, labels=labels), noise)


def test_between_gaussians_it_is_the_affine_map() -> None:
    """μ_b + (s_b/s_a)·(x − μ_a), and with the labels of the samples as source row by row."""
    z, way = draw(), {"target": "b", "steps": 300, "level": {"sigma": 1e4}}
    labels = torch.tensor([0, 1, 0])
    out = bridge(z, labels=labels, **way).pixels
    means, stds = torch.tensor([0.3, -1.0, 0.3]), torch.tensor([0.5, 0.2, 0.5])
    expected = -1 + 0.2 / stds[:, None, None, None] * (z - means[:, None, None, None])
    torch.testing.assert_close(out, expected.to(F64), atol=2e-3, rtol=0)
    assert torch.equal(out[0], bridge(z, source="a", **way).pixels[0])


@pytest.mark.parametrize(("solver", "order"), [("euler", 1.0), ("heun", 2.0), ("dpmpp_2m", 2.0)])
def test_order_of_convergence(solver: str, order: float) -> None:
    """Against both flows solved exactly, to a level where what the latent says of the image still matters."""
    z, errors = draw(), []
    low, top = (torch.full((3,), sigma, dtype=F64) for sigma in (0.1, 3.0))
    exact = B.flow(A.flow(z, low, top), top, low)
    for steps in (80, 160):
        settings: dict[str, Any] = {
            "source": "a",
            "target": "b",
            "solver": solver,
            "level": {"sigma": 3},
            "steps": steps,
        }
        errors.append((bridge(z, COARSE, **settings).pixels - exact).abs().max().log2().item())
    assert errors[0] - errors[1] == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("steps", "expected"), [(20, 5e-4), (40, 6e-5), (80, 7e-6)])
def test_the_round_trip_is_reported_and_is_the_way_to_the_source_itself(steps: int, expected: float) -> None:
    z = torch.linspace(-2, 2, 41 * 5 * 7, dtype=F64).reshape(41, 1, 5, 7)
    settings: dict[str, Any] = {"source": "a", "target": "b", "level": {"sigma": 3}, "steps": steps}
    done = bridge(z, COARSE, round_trip=True, **settings)
    back = bridge(z, COARSE, **{**settings, "target": "a"})
    assert done.details is not None
    trips = [detail["round_trip"] for detail in done.details]
    assert max(trip["max"] for trip in trips) == pytest.approx(expected, rel=0.1)
    error = (back.pixels - z).flatten(1)
    assert [trip["max"] for trip in trips] == pytest.approx(error.abs().amax(1).tolist())
    assert [trip["rms"] for trip in trips] == pytest.approx(error.square().mean(1).sqrt().tolist())
    assert back.details is None
    assert torch.equal(done.pixels, bridge(z, COARSE, **settings).pixels)


def test_there_and_back_again() -> None:
    z = draw()
    there = bridge(z, source="a", target="b", steps=80).pixels
    assert (there - z).abs().max() > 0.5
    torch.testing.assert_close(bridge(there, source="b", target="a", steps=80).pixels, z, atol=1e-3, rtol=0)


def test_two_models_with_schedules_of_their_own() -> None:
    """Up to where the lower of both ends, from the smallest level of one to that of the other."""
    low = levels_from_scheduler({"beta_schedule": "linear"})  # ends at σ 157
    first = ClosedForm(denoise=A, levels=FlowLevels(steps=1000), size=(5, 7))
    second = ClosedForm(denoise=B, levels=low, size=(5, 7))
    z = draw()
    done = bridge(z, first, second, level=1.0, steps=100)
    torch.testing.assert_close(done.sigmas[:, 0], low.sigma(torch.ones(3)))
    torch.testing.assert_close(done.sigmas[:, -1], low.sigma(torch.full((3,), 1e-3, dtype=F64)))
    torch.testing.assert_close(done.pixels, -1 + 0.4 * (z - 0.3), atol=0.02, rtol=0)


def test_guidance_is_of_the_way_down() -> None:
    """Of Gaussians of one width, scale 3 leads to the Gaussian of mean m_∅ + 3·(m_b − m_∅)."""
    by_class = (Gaussian(mean=0.3, std=0.5), Gaussian(mean=0.8, std=0.5))
    model = replace(MODEL, denoise=Gaussian(mean=0.6, std=0.5), by_class=by_class)
    z = draw()
    out = bridge(z, model, source="a", target="b", guidance=3, steps=100, level={"sigma": 1e4}).pixels
    torch.testing.assert_close(out, z - 0.3 + 1.2, atol=5e-3, rtol=0)


def test_the_latent_stage_acts_on_the_unit_latent() -> None:
    """Up from N(μ, s²) the latent is (x − μ)/s, from far up: scaled by 2 it comes down twice as far from the mean."""
    z, way = draw(), {"source": "a", "target": "a", "steps": 200, "level": {"sigma": 1e3}}
    doubled = bridge(z, latent=[LatentScale(factor=2)], **way).pixels
    torch.testing.assert_close(doubled, 0.3 + 2 * (z - 0.3), atol=5e-3, rtol=0)
    normal = bridge(z, latent=[Normalise()], **way).pixels
    assert normal.flatten(1).mean(1).tolist() == pytest.approx([0.3] * 3, abs=3e-3)
    assert normal.flatten(1).std(1).tolist() == pytest.approx([0.5] * 3, abs=5e-3)


def test_the_image_stage_comes_before_the_way_up() -> None:
    z, way = draw(), {"source": "a", "target": "b", "steps": 5}
    turned = bridge(z, image=[{"name": "rotate", "degrees": 180, "interpolation": "nearest"}], **way).pixels
    torch.testing.assert_close(turned, bridge(z.flip(2, 3), **way).pixels)


def test_a_lift_is_noise_that_the_way_down_takes_off_again() -> None:
    """Without data noise (s → 0) the latent of a flat image would be flat; lifted it is about N(0, 1)."""
    flat = replace(MODEL, by_class=(Gaussian(mean=0.3, std=1e-3),) * 2)
    z = torch.full((3, 3, 5, 7), 0.3, dtype=F64)
    way: dict[str, Any] = {"source": "a", "target": "b", "steps": 40, "lift": 0.2}
    done = bridge(z, flat, round_trip=True, **way)
    smallest = MODEL.levels.sigma(torch.tensor(1e-3, dtype=F64)).item()
    assert (done.pixels - z).std().item() == pytest.approx(smallest, rel=0.1)  # 0.2 of it went up
    assert done.details is not None
    assert all(detail["round_trip"]["max"] < 2e-3 for detail in done.details)
    normal = bridge(z, flat, latent=[Normalise()], **way).pixels
    torch.testing.assert_close(normal, done.pixels, atol=2e-3, rtol=0)  # the latent was normal before


def test_level_0_is_the_identity() -> None:
    z = draw()
    assert torch.equal(bridge(z, source="a", target="b", level=0.0).pixels, z)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": (7, 5)}, "second_model works on 5×7 pixels, the model on 7×5"),
        ({"space": "latent"}, "second_model lives in latent space, the model in pixel space"),
        ({"by_class": (A,)}, "second_model knows 1 classes, the model 2: condition own means two things"),
    ],
)
def test_models_that_do_not_go_together(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DDIB(source="a").check(MODEL, replace(MODEL, **change))


def test_models_of_different_depth() -> None:
    class Grey(ClosedForm):
        @property
        def shape(self) -> tuple[int, int, int]:
            return (1, *self.size)

    grey = Grey(denoise=A, levels=MODEL.levels, size=(5, 7))
    with pytest.raises(UserError, match="second_model has 1 channels, the model 3"):
        DDIB(source="none", target="none").check(MODEL, grey)


def test_conditions_are_asked_of_the_model_they_are_for() -> None:
    second = replace(MODEL, class_names=("x", "y"))
    DDIB(source="a", target="y").check(MODEL, second)
    with pytest.raises(UserError, match="'y' is not a class"):
        DDIB(source="y", target="y").check(MODEL, second)
    with pytest.raises(UserError, match="'a' is not a class"):
        DDIB(source="a", target="a").check(MODEL, second)
