"""What a device and its number types may change of an image, and what not a bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.exactness import exact
from pipeline.diffusion.levels import FlowLevels, Spacing, grid, levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.media.pixels import decode, to_pixels
from pipeline.media.records import Sample
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.shards import WebDatasetInput
from tests import tiny

pytestmark = pytest.mark.gpu

FASHION = "embedded:fashion_mnist/model"
COUNT = 4
KEYS = [str(i) for i in range(COUNT)]
SPACINGS: tuple[Spacing, ...] = ("trailing", "leading", "linspace", "karras", "consistency")


class Case(NamedTuple):
    path: str
    pixels: Tensor
    labels: Tensor | None
    captions: list[str] | None
    operator: Boomerang


# Root mean squares of the difference from float32, in [-1, 1]. On a CPU they are .0017, .00018, .0027 and .00017; with
# all of the walk in that type, not the network alone, .0026, .00037, .0040 and .00039; with other noise .2 and .4.
BOUNDS = {
    ("fashion", "bfloat16"): 0.0034, ("fashion", "float16"): 0.00036,
    ("sd", "bfloat16"): 0.0054, ("sd", "float16"): 0.00036,
}  # fmt: skip
WORSE = 1.2
"""At least so much further away is a walk that is all in the half type, by the same kernels."""
FLOAT32 = 2e-5
"""The same, from one device to another. With TF32 in its convolutions, 11 bits, it would be as in float16."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    (shard, *_) = WebDatasetInput(urls=("embedded:fashion_mnist/sample/t10k-00000.tar.gz",), label="cls").open().shards
    samples = [sample for sample in islice(shard.read(), COUNT) if isinstance(sample, Sample)]
    digits = to_pixels([decode(sample.image, (28, 28))[0] for sample in samples], "cpu")
    labels = torch.tensor([sample.label for sample in samples])
    drawn = 0.5 * torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    captions = ["a cat", "a dog", "a horse on grass", "snow"]
    sd = str(tiny.sd(tmp_path_factory.mktemp("sd")))
    return {
        "fashion": Case(FASHION, digits, labels, None, Boomerang(t_boom=0.4, steps=6)),  # type: ignore[arg-type]
        "sd": Case(sd, drawn, None, captions, Boomerang(t_boom=0.6, steps=10)),  # type: ignore[arg-type]
    }


Made = Callable[..., Tensor]


@pytest.fixture(scope="module")
def made(cases: dict[str, Case]) -> Made:
    """Images by name, device and number type, each made once; `walk` is the type of the trajectory."""
    known: dict[tuple[str, str, str, torch.dtype], Tensor] = {}

    @torch.inference_mode()
    @exact()
    def make(name: str, device: str, dtype: str = "float32", walk: torch.dtype = torch.float32) -> Tensor:
        asked = (name, device, dtype, walk)
        if asked not in known:
            case = cases[name]
            model = load_model(ModelConfig(path=case.path, dtype=dtype), device)  # type: ignore[arg-type]
            labels = None if case.labels is None else case.labels.to(device)
            given = Given(pixels=case.pixels.to(device), labels=labels, captions=case.captions)
            z = model.encode(case.pixels.to(device)).to(walk)
            done = case.operator(model, z, given, KeyedNoise(b"salt", KEYS, "boomerang", 0))
            assert done.pixels.device == torch.device(device)
            known[asked] = done.pixels.cpu()
        return known[asked]

    return make


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@pytest.mark.parametrize(("name", "dtype"), BOUNDS)
def test_half_types_stay_near_float32(
    made: Made, device: str, name: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    """Nearer than if more than the network were computed in them."""
    exactly, bound = made(name, device), BOUNDS[name, dtype]
    images = made(name, device, dtype)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    error, all_half = apart(images, exactly), apart(made(name, device, dtype, DTYPES[dtype]).float(), exactly)
    record_property("rms", error)
    record_property("rms, the walk in the half type", all_half)
    assert 0 < error < bound
    assert all_half > WORSE * error


@pytest.mark.parametrize("name", ["fashion", "sd"])
def test_float32_is_float32(made: Made, device: str, name: str) -> None:
    images, wanted = made(name, device), made(name, "cpu")
    assert apart(images, wanted) < FLOAT32
    assert float((images - wanted).abs().max()) < 20 * FLOAT32


def test_tf32_would_show(made: Made, cases: dict[str, Case], cuda: torch.device) -> None:
    """As torch runs convolutions by default: the bound above is no empty one."""
    case = cases["fashion"]
    assert case.labels is not None
    model, given = load_model(ModelConfig(path=FASHION), "cuda:0"), Given(labels=case.labels.to(cuda))
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        with torch.inference_mode():
            z, noise = model.encode(case.pixels.to(cuda)), KeyedNoise(b"salt", KEYS, "boomerang", 0)
            rounded = apart(case.operator(model, z, given, noise).pixels.cpu(), made("fashion", "cpu"))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    if rounded < 2 * FLOAT32:
        pytest.skip(f"TF32 changes nothing here ({rounded:.1e}): the device has none, or convolutions so small don't")
    assert apart(made("fashion", "cuda:0"), made("fashion", "cpu")) < rounded / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_noise_is_the_cpu_s_bit_for_bit(device: str, dtype: torch.dtype) -> None:
    """Drawn in float32, whatever it is wanted in."""
    for draw in range(2):
        here, there = (KeyedNoise(b"salt", KEYS, "operator", draw) for _ in range(2))
        for shape in ((COUNT, 3, 5, 7), (COUNT, 2, 3, 5, 7)):
            drawn = there(torch.zeros(shape, dtype=dtype, device=device))
            assert (drawn.device, drawn.dtype) == (torch.device(device), dtype)
            assert torch.equal(drawn.cpu(), here(torch.zeros(shape)).to(dtype))
        assert torch.equal(there.uniform(), here.uniform())


@pytest.mark.parametrize("kind", ["discrete", "flow"])
def test_levels_and_grids(device: str, kind: str) -> None:
    scheduler = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    here = levels_from_scheduler(scheduler) if kind == "discrete" else FlowLevels(shift=3)
    there = here.to(device)
    fraction = torch.linspace(0, 1, 9, dtype=torch.float64)[1:]
    sigma = there.sigma(fraction.to(device))
    each = [sigma, there.fraction(sigma), there.timestep(sigma), there.scale(sigma)]
    each += [grid(there, sigma, 5, spacing) for spacing in SPACINGS]
    known = here.sigma(fraction)
    wanted = [known, here.fraction(known), here.timestep(known), here.scale(known)]
    wanted += [grid(here, known, 5, spacing) for spacing in SPACINGS]
    for made, same in zip(each, wanted, strict=True):
        assert made.device == torch.device(device)
        np.testing.assert_allclose(made.cpu(), same, rtol=1e-9, atol=1e-12)
