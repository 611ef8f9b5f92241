"""What every operator promises, over the registry."""

from typing import Any

import pytest
import torch

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import OPERATORS, Given, Operator, Transformed
from tests.operator_settings import SETTINGS, TEXT_SETTINGS
from tests.text_model import Judge, Prompted

LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
MEANS = (0.3, -0.4, 0.1)
MODEL = ClosedForm(
    denoise=Gaussian(mean=0.0, std=0.6),
    by_class=tuple(Gaussian(mean=mean, std=0.5) for mean in MEANS),
    class_names=("a", "b", "c"),
    levels=LEVELS,
    size=(12, 12),
)
SECOND = ClosedForm(denoise=Gaussian(mean=-0.2, std=0.4), by_class=MODEL.by_class, levels=LEVELS, size=(12, 12))
PROMPTED = Prompted(denoise=MODEL.denoise, levels=LEVELS, size=(12, 12))
CAPTIONS = ["a cat", "a dog, two birds", "one"]
EDITED = ["a dog", "a dog, three birds", "two"]
ALL = SETTINGS | TEXT_SETTINGS
KEYS = ["a", "b.c", "d/e"]
CASES = [
    pytest.param(name, settings, everything, id=f"{name}-{i}{'-with-all' * everything}")
    for name, several in ALL.items()
    for i, settings in enumerate(several)
    for everything in ([False, True] if OPERATORS[name].accepts else [False])
]


def images(seed: int) -> torch.Tensor:
    return 0.5 * torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


Z, GUIDE, LABELS = images(0), images(1), torch.tensor([2, 0, 1])
MASK = (images(2)[:, :1] > 0).float()


def apply(operator: Operator, rows: list[int], everything: bool, copy: int = 0) -> Transformed:
    extras = operator.needs | (operator.accepts if everything else frozenset())
    given = Given(
        labels=LABELS[rows],
        captions=[CAPTIONS[row] for row in rows],
        edited=[EDITED[row] for row in rows] if "edited" in extras else None,
        judge=Judge() if "judge" in extras else None,
        mask=MASK[rows] if "mask" in extras else None,
        guide=GUIDE[rows] if "guide" in extras else None,
        second=SECOND if "second_model" in extras else None,
    )
    model = PROMPTED if operator.name in TEXT_SETTINGS else MODEL
    operator.check(model, given.second)
    noise = KeyedNoise(b"salt", [KEYS[row] for row in rows], operator.name, copy)
    return operator(model, Z[rows], given, noise)


def test_every_operator_has_settings_and_states_what_it_is() -> None:
    assert ALL.keys() == OPERATORS.keys()
    for name, several in ALL.items():
        operator = OPERATORS[name].model_validate(several[0])  # the name is its default
        assert operator.name == name
        assert isinstance(operator.stochastic, bool)
        assert isinstance(operator.invertible, bool)


@pytest.mark.parametrize(("name", "settings", "everything"), CASES)
def test_contract(name: str, settings: dict[str, Any], everything: bool) -> None:
    operator = OPERATORS[name](name=name, **settings)
    assert OPERATORS[name].model_validate(operator.model_dump(mode="json")) == operator
    before = [t.clone() for t in (Z, GUIDE, MASK, LABELS)]
    done = apply(operator, [0, 1, 2], everything)
    assert all(map(torch.equal, before, (Z, GUIDE, MASK, LABELS)))  # the input is not touched
    again, turned = apply(operator, [0, 1, 2], everything), apply(operator, [2, 0], everything)
    assert (*done.others,) == operator.further_images
    assert (*done.beside,) == operator.images_beside
    assert done.sigmas.shape[0] == len(Z)
    assert done.sigmas.dtype == torch.float64
    images = [[t.pixels, *t.others.values(), *t.beside.values()] for t in (done, again, turned)]
    for image, same, some in zip(*images, strict=True):
        assert (image.shape, image.dtype) == (Z.shape, Z.dtype)
        assert image.isfinite().all()
        assert torch.equal(image, same)  # same keys, same output
        torch.testing.assert_close(image[[2, 0]], some, rtol=1e-5, atol=1e-5)  # whoever else is in the batch
    if done.details is not None:
        assert len(done.details) == len(Z)
        assert turned.details is not None
    if settings.get("t_boom") == 0.0:
        assert torch.equal(done.pixels, Z)
    elif operator.stochastic and 0.0 not in settings.values():
        assert not torch.equal(done.pixels, apply(operator, [0, 1, 2], everything, copy=1).pixels)
