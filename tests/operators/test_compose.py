"""AND and NOT where the product of the densities is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Boomerang, Given
from pipeline.operators.compose import Compose

MODEL = ClosedForm(
    denoise=Gaussian(mean=0.1, std=0.4),
    by_class=tuple(Gaussian(mean=mean, std=0.4) for mean in (0.5, -0.2, 0.3)),
    class_names=("a", "b", "c"),
    levels=levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"}),
    size=(5, 7),
)
Z, LABELS = 0.4 * torch.randn(3, 3, 5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 1])


Terms = list[tuple[int | str, float]]


def composed(
    terms: Terms, second: ClosedForm | None = None, z: Tensor = Z, model: ClosedForm = MODEL, **more: Any
) -> Tensor:
    operator = Compose(terms=[{"condition": c, "weight": w} for c, w in terms], **more)
    operator.check(model, second)
    noise = KeyedNoise(b"salt", [str(i) for i in range(len(z))], "boomerang", 0)
    return operator(model, z, Given(labels=LABELS, second=second), noise).pixels


WAY: dict[str, Any] = {"steps": 60, "solver": "heun", "spacing": "karras", "start": {"sigma": 50}}
LED = 1 - 0.4 / (0.4**2 + 50**2) ** 0.5
"""How far the flow from σ = 50 carries one and the same noise when the mean of the data moves by 1."""


def test_and_and_not_lead_to_the_product_of_the_densities() -> None:
    """Of one width, it is the Gaussian of mean m_∅ + Σ w_i·(m_i − m_∅): `own` row by row, NOT with a minus."""
    moved = composed([("own", 2.0), ("b", -1.5)], **WAY) - composed([("none", 1.0)], **WAY)
    expected = 2 * (torch.tensor([0.3, 0.5, -0.2]) - 0.1) - 1.5 * (-0.2 - 0.1)
    torch.testing.assert_close(moved, LED * expected[:, None, None, None].expand(Z.shape), atol=1e-3, rtol=0)


@pytest.mark.parametrize("start", [0.5, 1.0])
def test_one_term_of_weight_1_is_boomerang(start: float) -> None:
    boomerang = Boomerang(t_boom=start, condition="c")
    noise = KeyedNoise(b"salt", ["0", "1", "2"], "boomerang", 0)
    expected = boomerang(MODEL, Z, Given(labels=LABELS), noise).pixels
    torch.testing.assert_close(composed([("c", 1.0)], start=start), expected, atol=1e-4, rtol=0)


def test_from_the_top_nothing_of_the_image_is_left() -> None:
    assert torch.equal(composed([("a", 1.0)]), composed([("a", 1.0)], z=Z + 3))
    assert not torch.allclose(composed([("a", 1.0)], start=0.6), composed([("a", 1.0)], z=Z + 3, start=0.6))


def test_a_second_model_mixes_in_where_it_shall() -> None:
    second = replace(MODEL, denoise=Gaussian(mean=-0.6, std=0.4), by_class=(Gaussian(mean=-1.1, std=0.4),) * 3)
    terms: Terms = [("a", 1.0)]
    moved = composed(terms, second, **WAY) - composed(terms, **WAY)
    torch.testing.assert_close(moved, torch.full_like(Z, -0.8 * LED), atol=1e-3, rtol=0)  # half of the way, by default


@pytest.mark.parametrize(("sigma", "first"), [(3.0, True), (1.0, False)])
def test_an_expert_takes_over_at_a_level(sigma: float, first: bool) -> None:
    second = replace(MODEL, by_class=(Gaussian(mean=-1.1, std=0.4),) * 3)
    step: dict[str, Any] = {"terms": [("a", 1.0)], "steps": 1, "start": {"sigma": sigma}}
    found = composed(second=second, mix={"share": 1.0, "interval": {"sigma": [0, 2]}}, **step)
    torch.testing.assert_close(found, composed(model=MODEL if first else second, **step))


def test_bad_input() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Compose(terms=[])
    with pytest.raises(UserError, match="condition none: the model was trained with labels only"):
        Compose(terms=[{"condition": "a"}]).check(replace(MODEL, unconditional=False), None)
    with pytest.raises(UserError, match="'d' is not a class of the model: it knows 0 to 2; names are a, b, c"):
        Compose(terms=[{"condition": "d"}]).check(MODEL, None)
    with pytest.raises(UserError, match="compose: second_model works on 9×8 pixels, the model on 7×5"):
        Compose(terms=[{"condition": "a"}]).check(MODEL, replace(MODEL, size=(8, 9)))
    with pytest.raises(UserError, match="compose: mix states the share of a second_model, and the recipe has none"):
        Compose(terms=[{"condition": "a"}], mix={"share": 0.2}).check(MODEL, None)
