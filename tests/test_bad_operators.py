"""What cannot work is one sentence, exit code 2, and nothing written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from tests import builders

TWO = {"conditions": [0, 1], "guidance": 1}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "view that does not divide": (
        {"name": "anagram", "views": ["identity", {"name": "patch_permutation", "tiles": 3}], **TWO},
        "patch_permutation",
    ),
    "view that is not orthogonal": (
        {"name": "anagram", "views": ["identity", {"name": "rotate", "degrees": 30}], **TWO},
        "‖AAᵀ − I‖ = 1.000",
    ),
    "fewer conditions than views": (
        {"name": "anagram", "views": ["identity", "rotate_90", "negate"], **TWO},
        "2 conditions for 3 views",
    ),
    "unknown view": ({"name": "anagram", "views": ["upside"], "conditions": [0]}, "upside"),
    "fewer conditions than components": (
        {"name": "factorized", "components": "colour", "conditions": [0]},
        "1 conditions for colour",
    ),
    "tiles that do not divide": ({"name": "tile_morph", "tiles": 3, **TWO}, "3 × 3 tiles don't divide"),
    "level out of range": ({"name": "sdedit", "t0": 1.2}, "a fraction of T lies in [0, 1]"),
    "unknown class": ({"name": "boomerang", "condition": "cat"}, "condition 'cat' is not a class of the model"),
    "jumps without room": ({"name": "inpaint", "steps": 4, "jump_length": 9}, "jumps of 9 steps need more than 4"),
    "factor that does not divide": ({"name": "enhance", "factor": 3}, "factor 3 does not divide"),
    "no such operator": ({"name": "boomerangs"}, "'boomerang'"),
}


def refused(content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    assert main(["run", str(recipe)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("doppel: ")
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
    return said


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator, sentence = CASES[case]
    changes = {"mask": {"shape": "half"}} if operator["name"] == "inpaint" else {}
    source = builders.shard(tmp_path / "in.tar", 2)
    content = builders.recipe(source, tmp_path / "out", model, operator=operator, **changes)
    assert sentence in refused(content, tmp_path, capsys)


def test_masks(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = builders.shard(tmp_path / "in.tar", 2)
    for name, shape, sentence in (("size", (5, 6), "measures 6 × 5"), ("grey", (8, 8), "not binary")):
        file = tmp_path / f"{name}.png"
        Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(file)
        changes: dict[str, Any] = {"operator": {"name": "sdedit"}, "mask": {"file": str(file)}}
        assert sentence in refused(builders.recipe(source, tmp_path / "out", model, **changes), tmp_path, capsys)


def test_second_models(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = builders.shard(tmp_path / "in.tar", 2)
    for name, options, sentence in (
        ("grey", {"channels": 1}, "has 1 channels, the model 3"),
        ("other classes", {"classes": 5}, "knows 5 classes, the model 3"),
    ):
        second: Any = {"path": str(builders.model_folder(tmp_path / name, **options))}
        changes: dict[str, Any] = {"operator": {"name": "ddib"}, "second_model": second}
        assert sentence in refused(builders.recipe(source, tmp_path / "out", model, **changes), tmp_path, capsys)
