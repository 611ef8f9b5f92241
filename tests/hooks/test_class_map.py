"""Labels of a training are classes of the model by name, or as the caller says; numbers alone are refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from pipeline.diffusion.model import Model
from pipeline.errors import UserError
from pipeline.hooks.augment import GenerativeAugment
from pipeline.hooks.live.background import BackgroundAugmenter
from pipeline.hooks.live.source import InMemory
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.operators.boomerang import Boomerang
from pipeline.streams.folder import FolderInput
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from training.compare.config import NearConfig
from training.compare.pools import neighbours
from training.data.images import same_classes

MODEL = ["cat", "dog", "owl"]
OPERATOR = {"name": "boomerang", "t_boom": 0.4, "steps": 2}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = builders.model_folder(tmp_path_factory.mktemp("named"), classes=4)
    (folder / "doppel.json").write_text(json.dumps({"class_names": MODEL, "null_label": 3}))
    return folder


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_labels_go_to_the_model_by_name(named: Path) -> None:
    data, labels, keys = images(3), torch.tensor([0, 1, 1]), ["a", "b", "c"]
    made = []
    theirs = torch.tensor([2, 0, 0])
    for class_map, given in ((["owl", "cat"], labels), ({0: "owl", 1: 0}, labels), ("numbers", theirs)):
        augment = GenerativeAugment(OPERATOR, str(named), p=1, class_map=cast(Any, class_map))
        again = pickle.loads(pickle.dumps(augment))
        for one in (augment, again):
            near, back = one(data, given, keys=keys)
            assert back.tolist() == given.tolist()  # the training's own labels stay
            made.append(near)
    assert all(torch.equal(made[0], other) for other in made)
    other = GenerativeAugment(OPERATOR, str(named), p=1, class_map="numbers")(data, labels, keys=keys)[0]
    assert not torch.equal(made[0], other)  # what a number alone would have made


def test_numbers_alone_are_refused_with_the_names(named: Path, tmp_path: Path, model: Path) -> None:
    why = r"class_map: labels are numbers, and the model names its classes \(cat, dog, owl\)"
    with pytest.raises(UserError, match=why):
        GenerativeAugment(OPERATOR, str(named))
    with pytest.raises(UserError, match="class_map: 'fox' is no class of the model"):
        GenerativeAugment(OPERATOR, str(named), class_map=["fox"])
    with pytest.raises(UserError, match="class_map: the model is given no labels"):
        GenerativeAugment(OPERATOR | {"condition": "owl"}, str(named), class_map="numbers")
    with pytest.raises(UserError, match="a label is 2; class_map holds only 0, 1 "):
        GenerativeAugment(OPERATOR, str(named), p=1, class_map=["owl", "cat"])(images(1), torch.tensor([2]))
    arrays = InMemory(keys=["a"], pixels=images(1), labels=torch.tensor([0]))
    config = ModelConfig(path=str(named), batch_size=2)
    with pytest.raises(UserError, match=why), BackgroundAugmenter(OPERATOR, config, arrays, tmp_path / "s", capacity=2):
        pass


def test_a_maker_conditions_a_folder_on_the_classes_that_it_names(named: Path, tmp_path: Path) -> None:
    for name in ("owl", "cat"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.png").write_bytes(builders.picture(1))
    config = ModelConfig(path=str(named), batch_size=2)
    data = FolderInput(path=str(tmp_path / "in"))
    classes = BackgroundAugmenter(OPERATOR, config, data, tmp_path / "s", capacity=2)._classes(sketch_model(config))
    assert [classes.number(label) for label in (0, 1)] == [0, 2]  # cat, owl
    texts = builders.tar(tmp_path / "in.tar", [("0.png", builders.picture(0)), ("0.cls", b"hoot")])
    stream = WebDatasetInput(urls=[str(texts)], label="cls")
    mapped = BackgroundAugmenter(OPERATOR, config, stream, tmp_path / "s", capacity=2, class_map={"hoot": "owl"})
    assert mapped._classes(sketch_model(config)).shown == {"hoot": "owl", "cat": "cat", "dog": "dog", "owl": "owl"}
    (tmp_path / "in" / "fox").mkdir()
    (tmp_path / "in" / "fox" / "x.png").write_bytes(builders.picture(1))
    fox = BackgroundAugmenter(OPERATOR, config, data, tmp_path / "s", capacity=2)
    with pytest.raises(UserError, match="class 'fox' is none of the model's"):
        fox._classes(sketch_model(config))


def test_comparisons_map_by_name_and_sets_must_count_alike(named: Path) -> None:
    near = NearConfig(model=ModelConfig(path=str(named)), operator=Boomerang(t_boom=0.4))
    model = cast(Model, sketch_model(ModelConfig(path=str(named))))
    labels = neighbours(near, model, ("owl", "cat")).check_labels(torch.tensor([0, 1, -1]))
    assert labels is not None
    assert labels.tolist() == [2, 0, -1]
    with pytest.raises(UserError, match="labels are numbers, and the model names its classes"):
        neighbours(near, model, None)
    same_classes({"data": ("a", "b"), "judge.data": None, "validation": ["a", "b"]})
    with pytest.raises(UserError, match=r"judge\.data has the classes b, a, data has a, b: their"):
        same_classes({"data": ("a", "b"), "judge.data": ("b", "a")})
