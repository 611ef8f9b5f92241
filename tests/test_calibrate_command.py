"""`doppel calibrate` from a recipe to its files, its exit code and its one-sentence errors."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.config import validate
from pipeline.job.config import JobConfig
from pipeline.media.rules import PixelRules
from tests import builders
from training.calibrate.config import CalibrationConfig
from training.classifier.judge import SmallCNN, save_classifier

COLOURS = ((220, 30, 30), (30, 200, 40), (40, 60, 230))
SALT = b"a-secret-of-enough-bytes"


def coloured(file: Path, prefix: str, count: int, *, labelled: bool = True, first: int = 0) -> str:
    """A shard of noisy images in the colours of three classes."""
    members = []
    for i in range(first, first + count):
        pixels = np.random.default_rng(i).normal(COLOURS[i % 3], 25, (8, 8, 3)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        members.append((f"{prefix}{i}.png", buffer.getvalue()))
        if labelled:
            members.append((f"{prefix}{i}.cls", str(i % 3).encode()))
    return str(builders.tar(file, members))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    coloured(folder / "held_out.tar", "h", 14)
    coloured(folder / "train.tar", "t", 60, first=100)
    coloured(folder / "unlabelled.tar", "u", 3, labelled=False)
    return folder


@pytest.fixture(scope="module")
def judge(place: Path) -> str:
    """What sees the colours without training: the features are the three channels, each by itself."""
    network = SmallCNN(3)
    with torch.no_grad():
        layers = [layer for layer in network.body if isinstance(layer, torch.nn.Conv2d)]
        for layer in layers:
            layer.weight.zero_()
            for channel in range(3):
                layer.weight[channel, channel, 1, 1] = 1
        network.head.weight.zero_()
        network.head.bias.zero_()
        network.head.weight[:, :3] = 5 * torch.eye(3)
    save_classifier(network, place / "judge.safetensors")
    return str(place / "judge.safetensors")


@pytest.fixture
def content(place: Path, judge: str, model: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "kind": "calibrate",
        "data": {"format": "webdataset", "urls": str(place / "held_out.tar")},
        "limit": 12,
        "model": {"path": str(model), "batch_size": 6},
        "operator": {"name": "boomerang", "steps": 2, "guidance": 1},
        "levels": [0, 0.95],
        "judge": {"file": judge},
        "output": str(tmp_path / "out"),
    }


def run(content: dict[str, Any], folder: Path) -> int:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return main(["calibrate", str(folder / "recipe.yaml")])


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "calibration.json").read_text())


def test_numbers_curve_sheet_and_lines(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content["filter"] = {"kind": "margin", "at": 0.3}
    assert run(content, tmp_path) == 0
    said = capsys.readouterr().out
    made = results(tmp_path)
    assert (made["images"], made["right"], made["pick"]) == (12, 12, 0)
    same, other = made["levels"]
    assert (same["level"], same["agreement"][1], same["distance"], same["rejected"]) == (0, 1, 0, 0)
    assert other["agreement"][1] < 0.95  # an untrained network makes nothing of them
    assert other["rejected"] > 0
    assert other["distance"] > 0 < other["diversity"]
    for name in ("locality.png", "neighbours.png"):
        assert np.asarray(Image.open(tmp_path / "out" / name).convert("RGB")).std() > 20, name
    assert not list((tmp_path / "out").glob(".*"))
    assert re.search(r"0\.95 +\d+\.\d%", said)
    lines = yaml.safe_load(said[said.index("operator:") :])
    assert list(lines["operator"]) == ["name", "t_boom", "steps", "guidance"]
    job = {**builders.recipe("x.tar", tmp_path, None), "model": content["model"], **lines}
    operator: Any = validate(JobConfig, job, "printed").operator
    assert (operator.t_boom.low, operator.t_boom.high, operator.steps) == (0, 0, 2)


def test_where_no_level_holds_it_says_so(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({**content, "levels": [0.9, 0.95]}, tmp_path) == 1
    said = capsys.readouterr()
    assert "no level holds" in said.err
    assert "operator:" not in said.out
    assert results(tmp_path)["pick"] is None
    assert (tmp_path / "out" / "locality.png").exists()


def test_a_judge_is_trained_on_other_images_and_kept(content: dict[str, Any], place: Path, tmp_path: Path) -> None:
    trained = {"data": {"format": "webdataset", "urls": str(place / "train.tar")}, "epochs": 60, "seed": 1}
    assert run({**content, "judge": trained}, tmp_path) == 0
    first = results(tmp_path)
    assert first["right"] >= 10
    again = {**content, "judge": {"file": str(tmp_path / "out" / "judge.safetensors")}}
    assert run(again, tmp_path) == 0
    second = results(tmp_path)
    for one, other in zip(first["levels"], second["levels"], strict=True):
        assert {**one, "images_per_second": 0} == {**other, "images_per_second": 0}


def test_the_slice_is_drawn_by_the_seed(content: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        run({**content, "levels": [0.5], "seed": seed, "limit": 6}, tmp_path)
        found.append(results(tmp_path)["levels"][0]["rmse"])
    assert found[0] == found[1] != found[2]


def test_the_salt_changes_the_neighbours_and_appears_nowhere(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run({**content, "levels": [0.5]}, tmp_path)
    public = results(tmp_path)["levels"][0]["rmse"]
    (tmp_path / "salt").write_bytes(SALT)
    run({**content, "levels": [0.5], "salt_file": str(tmp_path / "salt")}, tmp_path)
    assert results(tmp_path)["levels"][0]["rmse"] != public
    said = capsys.readouterr()
    for text in [said.out.encode(), said.err.encode(), *builders.tree(tmp_path, "out").values()]:
        assert SALT not in text
        assert SALT.hex().encode() not in text


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "judge trained on the slice": (
        {"judge": {"data": {"format": "webdataset", "urls": "HERE/held_out.tar"}}},
        "data: 12 of 12 images are in the training set of the judge by their keys",
    ),
    "no labels": (
        {"data": {"format": "webdataset", "urls": "HERE/unlabelled.tar"}},
        "data: 3 of 3 samples have no label",
    ),
    "judge without labels": (
        {"judge": {"data": {"format": "webdataset", "urls": "HERE/unlabelled.tar"}}},
        "judge.data: 3 of 3 samples have no label",
    ),
    "judge that is not a classifier": ({"judge": {"file": "HERE/train.tar"}}, "train.tar' is not a saved classifier"),
    "judge that is not there": (
        {"judge": {"file": "HERE/none"}},
        "none is damaged, or cannot be read (No such file",
    ),
    "two judges": (
        {"judge": {"file": "x", "data": {"format": "folder", "path": "y"}}},
        "judge: give file or data, and not both",
    ),
    "a judge from a file with epochs": ({"judge": {"file": "x", "epochs": 2}}, "belong to data"),
    "operator without a level": (
        {"operator": {"name": "ddib"}},
        "operator: ddib has no level; allowed are boomerang, enhance, sdedit",
    ),
    "levels that fall": ({"levels": [0.5, 0.4]}, "levels: the levels must ascend"),
    "level out of range": ({"levels": [0.5, 1.4]}, "less than or equal to 1"),
    "automatic batches": ({"model": {"path": "x", "batch_size": "auto"}}, "batch_size is auto; a number is expected"),
    "misspelt": ({"level": [0.5]}, "unknown key 'level' (did you mean 'levels'?)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_one_sentence(
    case: str, content: dict[str, Any], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, sentence = WRONG[case]
    changes = json.loads(json.dumps(changes).replace("HERE", str(place)))
    assert run({**content, **changes}, tmp_path) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert sentence in said[-1]
    assert not (tmp_path / "out" / "calibration.json").exists()


def test_labels_that_the_judge_does_not_know(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_classifier(SmallCNN(2), tmp_path / "two.safetensors")
    assert run({**content, "judge": {"file": str(tmp_path / "two.safetensors")}}, tmp_path) == 2
    assert "a label is 2; the classifier knows 0 to 1" in capsys.readouterr().err


def test_a_slice_that_the_model_was_trained_on_is_refused(
    content: dict[str, Any], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.streams.shards import WebDatasetInput
    from training.data.cache import build_cache
    from training.data.overlap import write_training_set

    trained = builders.model_folder(tmp_path / "trained")
    source = WebDatasetInput(urls=(str(place / "held_out.tar"),))
    write_training_set(build_cache(source, tmp_path / "cache", (8, 8), PixelRules()), trained)
    assert run({**content, "model": {"path": str(trained), "batch_size": 6}}, tmp_path) == 2
    assert "are in the training set of the model" in capsys.readouterr().err


def test_config_round_trip(content: dict[str, Any]) -> None:
    config = validate(CalibrationConfig, content, "test")
    assert CalibrationConfig.model_validate(config.model_dump(mode="json")) == config
