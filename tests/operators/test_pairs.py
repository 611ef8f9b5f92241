"""Pairs: what each try draws, what the two images share, and which tries are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Given, Pairs, PromptToPrompt, Transformed
from pipeline.operators.edit_scores import Thresholds
from tests import tiny
from tests.text_model import Judge, Prompted

CAPTIONS = ["a cat on grass", "a red dog"]
EDITED = ["a dog on grass", "a blue horse"]
LEVELS = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
KEYS = ["k", "l"]
NAN = float("nan")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(ModelConfig(path=str(tiny.sd(tmp_path_factory.mktemp("pairs") / "sd"))), "cpu")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Fixed(KeyedNoise):
    """Its draw is known."""

    def __init__(self, uniform: Sequence[float]) -> None:
        super().__init__(b"salt", KEYS[: len(uniform)], "pairs", 0)
        self._uniform = torch.tensor(uniform, dtype=torch.float64)

    def uniform(self) -> Tensor:
        return self._uniform


def apply(model: Any, noise: KeyedNoise, **settings: Any) -> Transformed:
    operator = Pairs(**{"steps": 4, **settings})
    operator.check(model, None)
    rows = len(noise.uniform())
    given = Given(captions=CAPTIONS[:rows], edited=EDITED[:rows], judge=Judge())
    return operator(model, torch.randn(rows, *model.shape), given, noise)


@pytest.mark.parametrize(("maps", "cross", "own"), [("cross", 1, 0), ("self", 0, 1), ("both", 1, 1)])
def test_a_try_is_prompt_to_prompt_with_its_own_share_and_guidance(
    model: Any, maps: Any, cross: float, own: float
) -> None:
    noise = Fixed([0.2, 0.95])
    done = apply(model, noise, maps=maps)
    assert done.details is not None
    for i, facts in enumerate(done.details):
        assert facts["share"] == pytest.approx(0.1 + 0.8 * float(noise.uniform()[i]))
        alone = PromptToPrompt(
            source=CAPTIONS[i], target=EDITED[i], cross_share=cross * facts["share"], self_share=own * facts["share"],
            guidance=facts["guidance"], steps=4, solver="ancestral",
        )  # fmt: skip
        expected = alone(model, torch.zeros(1, *model.shape), Given(), KeyedNoise(b"salt", [KEYS[i]], "pairs", 0))
        torch.testing.assert_close(done.pixels[i], expected.beside["source"][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(done.beside["after"][i], expected.pixels[0], atol=1e-5, rtol=1e-5)


def test_each_try_draws_from_both_ranges() -> None:
    model = Prompted(denoise=Gaussian(), levels=LEVELS, size=(4, 4))
    found = []
    for copy in range(200):
        done = apply(model, KeyedNoise(b"salt", KEYS, "pairs", copy), steps=1)
        assert done.details is not None
        found += [(facts["share"], facts["guidance"]) for facts in done.details]
    drawn = torch.tensor(found, dtype=torch.float64)
    uniform = (drawn - torch.tensor([0.1, 7.5])) / torch.tensor([0.8, 7.5])
    assert uniform.min() >= 0
    assert uniform.max() < 1
    for column in uniform.T:
        assert (column.sort().values - torch.linspace(0, 1, len(column))).abs().max() < 0.1  # Kolmogorov: 1.6/√400
    assert abs(float(torch.corrcoef(uniform.T)[0, 1])) < 0.15


def test_scores_are_the_judge_s_of_the_images_as_they_are_written(model: Any) -> None:
    seen: list[Tensor] = []

    class Watching(Judge):
        def images(self, pixels: Tensor) -> Tensor:
            seen.append(pixels)
            return super().images(pixels)

    operator = Pairs(steps=2)
    given = Given(captions=CAPTIONS, edited=EDITED, judge=Watching())
    done = operator(model, torch.zeros(2, *model.shape), given, KeyedNoise(b"salt", KEYS, "pairs", 0))
    assert torch.equal(seen[0], done.pixels.clamp(-1, 1))
    assert torch.equal(seen[1], done.beside["after"].clamp(-1, 1))
    assert done.details is not None
    judge = Judge()
    before, after = judge.images(seen[0]), judge.images(seen[1])
    for i, facts in enumerate(done.details):
        scores = facts["scores"]
        assert scores["before"] == pytest.approx(float(before[i] @ judge.texts(CAPTIONS)[i]), abs=1e-5)
        assert scores["after"] == pytest.approx(float(after[i] @ judge.texts(EDITED)[i]), abs=1e-5)
        assert scores["images"] == pytest.approx(float(before[i] @ after[i]), abs=1e-5)
        moved, asked = after[i] - before[i], (judge.texts(EDITED) - judge.texts(CAPTIONS))[i]
        assert scores["direction"] == pytest.approx(float(moved @ asked / moved.norm() / asked.norm()), abs=1e-4)


def try_of(before: float = 0.3, after: float = 0.3, direction: float = 0.3, images: float = 0.8) -> dict[str, Any]:
    return {"scores": {"before": before, "after": after, "direction": direction, "images": images}}


def test_the_best_by_direction_are_kept_of_those_that_pass() -> None:
    tries = [
        try_of(direction=0.25), try_of(direction=0.9, images=0.6), try_of(direction=0.5), try_of(direction=NAN),
        try_of(direction=0.21), try_of(before=0.1, direction=0.8), try_of(direction=0.3), try_of(direction=0.19),
        try_of(direction=0.7, after=0.19), try_of(direction=0.4), try_of(direction=0.2),
    ]  # fmt: skip
    assert Pairs().choose(tries) == [2, 9, 6, 0]
    assert Pairs(keep=2).choose(tries) == [2, 9]
    assert Pairs(keep=9).choose(tries) == [2, 9, 6, 0, 4, 10]  # on the threshold is enough
    assert Pairs(thresholds=Thresholds(images=0.5), keep=1).choose(tries) == [1]


def test_where_none_passes_the_reason_says_how_near_it_came() -> None:
    why = Pairs().choose([try_of(images=0.1), try_of(direction=0.5, images=0.2), try_of(direction=NAN)])
    assert why == (
        "none of 3 pairs shows the edit: the best has before 0.30, after 0.30, direction 0.50, images 0.20; "
        "asked for are before 0.20, after 0.20, direction 0.20, images 0.70"
    )
    assert isinstance(Pairs().choose([try_of(direction=NAN)]), str)


def test_what_it_needs() -> None:
    assert Pairs().needs == {"edited", "judge"}
    assert Pairs().copies == 100
    assert Pairs().conditions_used() == ("own", "edited", "none")
    with pytest.raises(UserError, match="pairs: the model has no attention to the words of a prompt"):
        Pairs().check(ClosedForm(denoise=Gaussian(), levels=LEVELS, size=(4, 4)), None)
    for name in ("share", "guidance"):
        with pytest.raises(ValidationError, match=f"{name}: the range is upside down"):
            Pairs(**{name: (0.6, 0.2)})  # type: ignore[arg-type]
