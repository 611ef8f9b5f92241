"""`t_boom: {bound: 0.3}`: the level is found from the originals, stands in job.json, and stays; or one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.anonymity.bound.gaussian import interval, one_look
from pipeline.anonymity.bound.measuring import drawn
from pipeline.commands.bounding import looks, training_check
from pipeline.config import validate
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine import bounding
from pipeline.engine.bounding import gather, hiding, no_bound
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.hooks.augment import GenerativeAugment
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.media.pixels import decode
from pipeline.models.config import Lora, ModelConfig
from pipeline.models.families import load_model
from pipeline.models.training_set import FILE
from pipeline.operators import Boomerang, Given
from pipeline.release.finished_job import Made
from pipeline.tensors import write_tensors
from tests import builders
from tests.builders import SIDE
from tests.finished_job import finished_job, people
from training.data.overlap import marks_of

COUNT = 12


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builders.model_folder(tmp_path_factory.mktemp("model"), classes=None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builders.shard(tmp_path_factory.mktemp("in") / "in.tar", COUNT)


def config_of(source: Path, model: Path, out: Path, **changes: Any) -> JobConfig:
    return validate(JobConfig, builders.recipe(source, out, model, **changes), "test")


def bounded(source: Path, model: Path, out: Path, bound: float = 0.3, **changes: Any) -> Plan:
    return make_plan(config_of(source, model, out, **{"operator.t_boom": {"bound": bound}, **changes}))


def level(plan: Plan) -> float:
    operator = plan.config.model_dump(mode="json")["operator"]
    return float(operator["t_boom"]["fraction"])


def rate(plan: Plan) -> float:
    """Upper end of the interval of the rank-1 rate at the plan's levels, all looks taken as one."""
    critical, _ = drawn(gather(plan))
    return interval(int((critical > one_look(hiding(plan))).sum()), len(critical))[1]


def test_the_level_is_found_stands_in_the_job_and_stays(
    source: Path, unconditional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = bounded(source, unconditional, tmp_path / "out")
    assert (plan.bound, level(bounded(source, unconditional, tmp_path / "new"))) == (0.3, level(plan))
    assert 0.25 < rate(plan) <= 0.3
    assert plan.notes == [f"the level that keeps a bound of 0.3: {{'fraction': {level(plan)}}}"]
    run_job(plan)
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["config"]["operator"]["t_boom"] == {"fraction": level(plan)}
    assert job["hashes"]["level"] == plan.hashes["level"]
    given = tmp_path / "given"
    run_job(make_plan(config_of(source, unconditional, given, **{"operator.t_boom": level(plan)})))
    made, same = ({n: c for n, c in builders.members_of(out / "data" / "in.tar").items() if n.endswith(".png")}
                  for out in (tmp_path / "out", given))  # fmt: skip
    assert made == same
    monkeypatch.setattr(bounding, "gather", None)  # a job that goes on asks nobody
    assert level(bounded(source, unconditional, tmp_path / "out")) == level(plan)


def test_copies_and_the_ladder_are_further_looks(source: Path, unconditional: Path, tmp_path: Path) -> None:
    once = bounded(source, unconditional, tmp_path)
    twice = bounded(source, unconditional, tmp_path, **{"operator.copies": 4})
    assert hiding(twice)[0] == pytest.approx(hiding(once)[0], rel=0.01)
    assert level(twice) > level(once)
    assert rate(twice) <= 0.3


def test_of_a_ladder_all_levels_together_keep_the_bound(
    source: Path, unconditional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = bounded(source, unconditional, tmp_path)
    monkeypatch.setattr("pipeline.engine.planning.facts_of_gate", lambda *_: None)
    monkeypatch.setenv("DOPPEL_SALT", "a secret of these tests")
    ladder = {"anonymity": {"ladder": [{"fraction": min(level(once) + 0.01, 1)}]}}
    climbing = bounded(source, unconditional, tmp_path, **ladder)
    assert level(climbing) > level(once)
    assert 0.25 < rate(climbing) <= 0.3
    with pytest.raises(UserError, match="the levels of the ladder alone tell more"):
        bounded(source, unconditional, tmp_path, anonymity={"ladder": [0.3]})


def test_a_gate_of_one_family_adds_no_ladder_and_keeps_its_least_level(
    source: Path, unconditional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.planning.facts_of_gate", lambda *_: None)
    monkeypatch.setenv("DOPPEL_SALT", "a secret of these tests")
    alone = {"recognisers": ["Dlib"]}
    plan = bounded(source, unconditional, tmp_path, anonymity=alone)
    assert len(hiding(plan)) == 1
    with pytest.raises(UserError, match=r"\{bound: 0\.99\}: all recognisers of the gate are of one family"):
        bounded(source, unconditional, tmp_path, 0.99, anonymity=alone)
    accepted = bounded(source, unconditional, tmp_path, 0.99, anonymity=alone | {"one_family": "accepted"})
    assert level(accepted) < 0.9 < level(plan)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator.t_boom": {"bound": 0.05}}, "by chance alone the source is found more often"),
        ({"operator.spacing": "leading"}, "the most that this model and operator.spacing add"),
    ],
)
def test_a_bound_that_no_level_keeps_is_refused(
    source: Path, unconditional: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=rf"operator\.t_boom: .*no level is high enough: .*{words}"):
        bounded(source, unconditional, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator": {"name": "sdedit", "steps": 2}}, "operator sdedit goes by more"),
        ({"operator": {"name": "ilvr", "steps": 2}}, "operator ilvr goes by more"),
        ({"anonymity": {"keep": ["json:box"], "box_format": "xyxy"}}, "leave pixels of the original"),
        (
            {"operator": {"name": "sdedit", "steps": 2}, "anonymity": {"faces_only": {"margin": 0.1}}},
            "leave pixels of the original",
        ),
        (
            {"anonymity": {"ladder": []}, "release": {"path": "/a", "audit": "/b", "members": ["txt"]}},
            "publishes members",
        ),
        ({"anonymity": {"guidance": {"recognisers": ["small"]}}}, "at every step"),
        ({}, None),
    ],
)
def test_what_has_no_bound_says_why(
    source: Path, unconditional: Path, tmp_path: Path, changes: dict[str, Any], words: str | None
) -> None:
    plan = make_plan(config_of(source, unconditional, tmp_path))
    reason = no_bound(replace(plan, config=config_of(source, unconditional, tmp_path, **changes)))
    assert (reason is None) if words is None else (words in str(reason))


class Told(KeyedNoise):
    """Noise whose first draw is given."""

    def __init__(self, first: torch.Tensor) -> None:
        super().__init__(b"the salt of these tests", [str(i) for i in range(len(first))], "", 0)
        self.first: torch.Tensor | None = first

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        first, self.first = self.first, None
        return super().__call__(like) if first is None else first.to(like)


@pytest.mark.parametrize("solver", ["ancestral", "heun", "dpmpp_2m_sde"])
def test_two_originals_behind_one_noised_latent_give_one_output(unconditional: Path, solver: str) -> None:
    """What makes a bound one: an output follows from `z + σ·ε` alone, not from z or the pixels beside it."""
    model = load_model(ModelConfig(path=str(unconditional)), "cpu")
    operator = Boomerang(t_boom=0.6, steps=3, solver=solver)
    sigma = operator.least_noise(model)
    assert sigma is not None
    a, b, first = torch.randn(3, 2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    one = operator(model, a, Given(pixels=a), Told(first))
    other = operator(model, b, Given(pixels=b), Told(first + (a - b) / sigma))
    assert torch.allclose(one.pixels, other.pixels, atol=1e-4)
    apart = operator(model, b, Given(pixels=b), Told(first))
    assert not torch.allclose(one.pixels, apart.pixels, atol=1e-2)


def test_originals_that_an_output_tells_apart_are_no_rivals(unconditional: Path, tmp_path: Path) -> None:
    members = [
        (f"{i}.png", builders.picture(i, size=(20 + i % 2, 20), mode="L" if i < 6 else "RGB")) for i in range(COUNT)
    ]
    source = builders.tar(tmp_path / "mixed.tar", members)

    def groups(**changes: Any) -> int:
        return len(gather(make_plan(config_of(source, unconditional, tmp_path / "out", **changes))).groups.unique())

    assert groups() == 2
    assert groups(**{"image.restore_size": True}) == 4
    assert groups(**{"image.mode": "RGB"}) == 1


def test_the_label_counts_where_the_model_is_told_it(source: Path, model: Path, tmp_path: Path) -> None:
    told = gather(make_plan(config_of(source, model, tmp_path, classes="numbers")))
    untold = gather(make_plan(config_of(source, model, tmp_path, **{"operator.condition": 1})))
    assert len(told.groups.unique()) > 1 == len(untold.groups.unique())


def test_of_very_many_originals_a_random_part_is_held(
    source: Path, unconditional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(config_of(source, unconditional, tmp_path))
    everything = gather(plan)
    monkeypatch.setattr(bounding, "MOST", 5)
    monkeypatch.setattr(bounding, "BATCH", 2)
    part = gather(plan)
    assert (len(part.keys), part.total) == (5, COUNT)
    assert part.keys == everything.keys[:5]
    assert part.latents.numpy() == pytest.approx(everything.latents[:5].numpy(), abs=1e-6)
    limited = gather(make_plan(config_of(source, unconditional, tmp_path, limit=3)))
    assert limited.total == len(limited.keys) == 3


def test_every_look_of_a_finished_job_counts(tmp_path: Path) -> None:
    """Levels from the provenance; what failed before, and what never passed, with the least noise of its rounds."""
    sources = people(3, level=0.5)
    made = list(Made.by(finished_job(tmp_path, [sources])).entries(()))
    first, second, _ = (
        entry._replace(sigma=4.0, attempt=number) for number, entry in enumerate(sorted(made, key=lambda e: e.source))
    )
    keys = (first.source, second.source, "withheld")
    sigma, passed = looks([first, second, second._replace(sigma=8.0)], keys, [2.0, 3.0])
    assert sigma == pytest.approx(np.array([4.0, one_look([2.0, 4.0, 8.0]), one_look([2.0, 3.0])]))
    assert passed == [1, 1]


def test_training_images_are_looked_for_among_the_originals(source: Path, tmp_path: Path) -> None:
    folder = builders.model_folder(tmp_path / "model", classes=None)
    plan = make_plan(config_of(source, folder, tmp_path / "out"))
    originals, config = gather(plan), plan.config.model
    assert config is not None
    assert training_check(config, originals).images is None
    images = [decode(builders.picture(i), plan.size)[0] for i in range(COUNT - 2, COUNT + 5)]
    pixels = torch.from_numpy(np.stack(images)).movedim(3, 1)
    write_tensors(marks_of([str(i) for i in range(7)], pixels), folder / FILE)
    found = training_check(config, originals)
    assert (found.images, found.seen) == (7, 2)
    adapted = config.model_copy(update={"lora": (Lora(path=str(tmp_path)),)})
    assert training_check(adapted, originals).images is None


def test_a_training_loop_has_no_originals_to_find_a_level_from(unconditional: Path) -> None:
    operator = {"name": "boomerang", "t_boom": {"bound": 0.01}}
    with pytest.raises(UserError, match=r"operator\.t_boom: \{bound: 0\.01\} is for a job"):
        GenerativeAugment(operator, str(unconditional), p=0.5)
