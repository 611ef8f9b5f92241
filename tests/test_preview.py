"""`doppel preview`: a sheet of what goes in beside what comes out, and no shards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.commands.preview import sheet_rows, try_out
from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from tests import builders


def test_the_sheet_shows_inputs_masks_and_all_outputs(tmp_path: Path, model: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 9)
    changes: dict[str, Any] = {"operator": {"name": "sdedit", "steps": 2, "copies": 2}, "mask": {"shape": "half"}}
    content = builders.recipe(source, tmp_path / "out", model, guide={"strokes": {}}, **changes)
    outputs, rejected = try_out(validate(JobConfig, content, "test"), 5)
    assert not rejected
    rows = sheet_rows(outputs)
    assert list(rows) == ["input", "mask", "guide", "output 0", "output 1"]
    assert all(len(pictures) == 5 for pictures in rows.values())
    assert np.array_equal(rows["input"][3], decode(builders.picture(3))[0])


def test_it_shows_what_the_job_writes(tmp_path: Path, model: Path) -> None:
    content = builders.recipe(builders.shard(tmp_path / "in.tar", 3), tmp_path / "out", model)
    config = validate(JobConfig, content, "test")
    run_job(make_plan(config))
    written = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    outputs, _ = try_out(config, 3)
    for (output,) in outputs:  # up to the rounding of another batch size
        assert np.abs(decode(written[f"{output.provenance.key.source}.png"])[0].astype(int) - output.image).max() <= 1


def test_the_command(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("0.png", b"no image"), ("0.cls", b"0")]
    for i in range(1, 4):
        members += [(f"{i}.png", builders.picture(i)), (f"{i}.cls", b"1")]
    source = builders.tar(tmp_path / "in.tar", members)
    recipe, sheet = tmp_path / "recipe.yaml", tmp_path / "sheet.png"
    recipe.write_text(yaml.safe_dump(builders.recipe(source, tmp_path / "out", model)))
    assert main(["preview", str(recipe), "-n", "2", "-o", str(sheet)]) == 0
    assert "refused: 0" in capsys.readouterr().err
    assert Image.open(sheet).height > 2 * 84
    assert not (tmp_path / "out").exists()


def test_nothing_to_show_is_one_sentence(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    source = builders.tar(tmp_path / "in.tar", [("0.png", b"no image"), ("0.cls", b"0")])
    recipe.write_text(yaml.safe_dump(builders.recipe(source, tmp_path / "out", model)))
    assert main(["preview", str(recipe), "-o", str(tmp_path / "sheet.png")]) == 2
    assert "no sample can be shown" in capsys.readouterr().err
    assert main(["preview", str(recipe), "-n", "0"]) == 2


def test_tiles_are_animated_where_the_operator_moves_them(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, moving = builders.shard(tmp_path / "in.tar", 1), tmp_path / "tiles.gif"
    for operator, code in (({"name": "boomerang"}, 2), ({"name": "mosaic", "tiles": 2}, 0)):
        guide = {"guide": {"strokes": {}}} if code == 0 else {}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(builders.recipe(source, tmp_path / "out", model, operator=operator, **guide)))
        sheet = tmp_path / f"{operator['name']}.png"
        assert main(["preview", str(recipe), "-n", "1", "-o", str(sheet), "--animate", str(moving)]) == code
        assert sheet.exists() == moving.exists() == (code == 0)  # refused before any work
    said = "operator boomerang moves no tiles; allowed are mosaic, tile_morph"
    assert said in capsys.readouterr().err
