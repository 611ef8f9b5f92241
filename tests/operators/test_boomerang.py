"""What Boomerang does exactly where the answer is known."""

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import OPERATORS, Given, Operator

MEAN, STD = 0.3, 0.5
LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
MODEL = ClosedForm(denoise=Gaussian(mean=MEAN, std=STD), levels=LEVELS, size=(5, 7))
KEYS = ["a", "b.c", "d/e"]


def draw(count: int = 3) -> Tensor:
    return MEAN + STD * torch.randn(count, 3, 5, 7, generator=torch.Generator().manual_seed(0))


def apply(operator: Operator, z: Tensor, keys: list[str] = KEYS, copy: int = 0) -> Tensor:
    return operator(MODEL, z, Given(), KeyedNoise(b"salt", keys, operator.name, copy)).pixels


@pytest.mark.parametrize("unit", ["fraction", "sigma", "log_snr"])
def test_boomerang_correlates_with_its_input_as_the_closed_form_says(unit: str) -> None:
    """Both halves draw anew, so the correlation is s²/(s²+σ²): √ of it for the noising, √ of it for the return.

    The discretised return is not exact; with 200 steps it is within the statistical error.
    """
    sigma = torch.tensor([0.6], dtype=torch.float64)
    level = {"fraction": LEVELS.fraction(sigma), "sigma": sigma, "log_snr": -2 * sigma.log()}[unit].item()
    x = draw(600)
    keys = [str(i) for i in range(len(x))]
    out = apply(OPERATORS["boomerang"](name="boomerang", t_boom={unit: level}, steps=200), x, keys)
    correlation = torch.corrcoef(torch.stack([x.flatten(), out.flatten()]))[0, 1].item()
    assert out.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert out.std().item() == pytest.approx(STD, rel=0.02)
    assert correlation == pytest.approx(STD**2 / (STD**2 + 0.36), abs=0.015)


def test_the_deterministic_return_keeps_more_of_the_input() -> None:
    """Euler's return maps noisy points one to one: only the noising forgets, √(s²/(s²+σ²)) is left."""
    x = draw(600)
    keys = [str(i) for i in range(len(x))]
    operator = OPERATORS["boomerang"](name="boomerang", t_boom={"sigma": 0.6}, steps=200, solver="euler")
    out = apply(operator, x, keys)
    correlation = torch.corrcoef(torch.stack([x.flatten(), out.flatten()]))[0, 1].item()
    assert correlation == pytest.approx(STD / (STD**2 + 0.36) ** 0.5, abs=0.015)


def test_rows_with_their_own_levels_equal_runs_of_one() -> None:
    operator = OPERATORS["boomerang"](name="boomerang", t_boom=[0.1, 0.8], steps=6, solver="dpmpp_2m")
    z = draw()
    together = operator(MODEL, z, Given(), KeyedNoise(b"salt", KEYS, "boomerang", 0))
    assert len(set(together.sigmas[:, 0].tolist())) == 3
    for i, key in enumerate(KEYS):
        alone = operator(MODEL, z[i : i + 1], Given(), KeyedNoise(b"salt", [key], "boomerang", 0))
        assert torch.equal(alone.sigmas[0], together.sigmas[i])
        torch.testing.assert_close(alone.pixels[0], together.pixels[i], rtol=1e-6, atol=1e-6)
