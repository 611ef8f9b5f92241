"""Whole jobs: where a white rectangle is in the output, there are its mask, its box and its corners."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.geometry.undeclared import undeclared
from pipeline.job.config import JobConfig
from pipeline.media.frame import Frame
from pipeline.media.provenance import PROVENANCE, Provenance
from pipeline.streams.job_records import Manifest
from pipeline.streams.quarantine import read_quarantine
from tests import builders

BOX = (16, 4, 28, 16)
"""Left, top, right and bottom of the white rectangle in an image of 40 × 20."""
SECTION = {
    "masks": ["seg.png"], "boxes": "json:objects.bbox", "keypoints": "json:corners", "format": "xyxy",
}  # fmt: skip


def run(content: dict[str, Any]) -> Manifest:
    return run_job(make_plan(validate(JobConfig, content, "test")))


def notes(manifest: Manifest) -> list[str]:
    """What the job says of places."""
    return [note for note in manifest.notes if "geometry" in note]


def rectangle(mode: str, white: int, size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    image = Image.new(mode, size)
    image.paste((white,) * 3 if mode == "RGB" else white, BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def stated() -> dict[str, Any]:
    corners = [[16.0, 4.0], [28.0, 16.0]]
    return {"width": 40, "height": 20, "objects": [{"bbox": [16.0, 4.0, 28.0, 16.0], "name": "ü"}], "corners": corners}


def source(folder: Path, **options: Any) -> Path:
    members = [
        ("0.png", rectangle("RGB", 255, **options)),
        ("0.seg.png", rectangle("L", 7)),
        ("0.json", json.dumps(stated()).encode()),
        ("0.cls", b"1"),
    ]
    return builders.tar(folder / "in.tar", members)


def written(out: Path) -> dict[str, bytes]:
    return builders.members_of(out / "data" / "in.tar")


def white_box(data: bytes) -> tuple[int, ...]:
    """The bounding box of what is bright."""
    box = Image.open(io.BytesIO(data)).convert("L").point(lambda level: 255 * (level > 3)).getbbox()
    assert box is not None
    return box


def bright(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 127


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("fit", ["resize", "crop", "pad", "centre 16"])
def test_everything_is_where_the_image_shows_it(tmp_path: Path, model: Path, fit: str, restore: bool) -> None:
    changes = {"image.fit": fit, "image.restore_size": restore, "operator.t_boom": 0, "geometry": SECTION}
    manifest = run(builders.recipe(source(tmp_path), tmp_path / "out", model, **changes))
    assert notes(manifest) == []
    after = written(tmp_path / "out")
    there, box = json.loads(after["0.json"]), white_box(after["0.seg.png"])
    picture = bright(after["0.png"])
    assert (bright(after["0.png"]) == (np.asarray(Image.open(io.BytesIO(after["0.seg.png"]))) == 7)).mean() > 0.9
    assert (there["height"], there["width"]) == picture.shape
    assert there["objects"][0]["name"] == "ü"
    assert np.abs(np.subtract(there["objects"][0]["bbox"], box)).max() <= 1
    assert there["objects"][0]["bbox"] == pytest.approx(np.ravel(there["corners"]).clip(0, picture.shape[1]))
    frame = Provenance.from_json(after[f"0.{PROVENANCE}"], "0").geometry
    assert frame is not None
    assert (frame.full, frame.output) == ((40, 20), picture.shape[::-1])
    assert np.allclose(frame.to_source(np.array(there["corners"])), stated()["corners"])
    if restore and fit in ("resize", "pad"):
        assert after["0.json"] == json.dumps(stated()).encode()
        assert after["0.seg.png"] == rectangle("L", 7)


def test_a_turned_photograph_is_upright_with_all_that_lies_in_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    changes = {"geometry": {**SECTION, "upright": False}, "output.codec": "png"}
    run(builders.recipe(source(tmp_path, exif=exif), tmp_path / "out", None, **changes))
    after = written(tmp_path / "out")
    there = json.loads(after["0.json"])
    assert (there["width"], there["height"]) == (20, 40)
    assert tuple(there["objects"][0]["bbox"]) == white_box(after["0.png"]) == white_box(after["0.seg.png"])


def test_a_clip_takes_along_what_lies_in_its_frames(tmp_path: Path, model: Path) -> None:
    frames = [Image.open(io.BytesIO(rectangle("RGB", white))) for white in (255, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    members = [("0.gif", buffer.getvalue()), ("0.json", json.dumps(stated()).encode()), ("0.cls", b"1")]
    changes = {"image.fit": "crop", "operator.t_boom": 0, "geometry": {**SECTION, "masks": []}, "video": {}}
    run(builders.recipe(builders.tar(tmp_path / "in.tar", members), tmp_path / "out", model, **changes))
    after = written(tmp_path / "out")
    there = json.loads(after["0.json"])
    assert np.abs(np.subtract(there["objects"][0]["bbox"], white_box(after["0.gif"]))).max() <= 1
    assert (there["width"], there["height"]) == (8, 8)


def test_masks_that_are_changed_lie_as_viewers_show_them(tmp_path: Path, model: Path) -> None:
    changes = {"geometry": {"upright": False}, "mask": {"member": "seg.png"}}
    content = builders.recipe(tmp_path / "in.tar", tmp_path / "out", model, **changes)
    content["operator"] = {"name": "sdedit", "t0": 0.5, "steps": 2}
    with pytest.raises(UserError, match=r"geometry\.upright: false: mask\.member is taken as viewers show it"):
        validate(JobConfig, content, "test")


def test_what_is_not_declared_stays_and_the_job_says_so_once(tmp_path: Path, model: Path) -> None:
    manifest = run(builders.recipe(source(tmp_path), tmp_path / "out", model))
    after = written(tmp_path / "out")
    assert (after["0.json"], after["0.seg.png"]) == (json.dumps(stated()).encode(), rectangle("L", 7))
    assert [manifest.notes[note] for note in notes(manifest)] == [1, 1, 1]
    assert any("geometry: {boxes: json:objects.bbox, format: xywh}" in note for note in manifest.notes)
    assert run(builders.recipe(source(tmp_path), tmp_path / "same", None)).notes == {}


def test_a_sample_that_cannot_follow_is_kept_as_it_came(tmp_path: Path, model: Path) -> None:
    changes = {"geometry": {"boxes": "json:objects.bbox", "format": "xyxy", "leaving": "drop"}, "image.fit": "centre 8"}
    manifest = run(builders.recipe(source(tmp_path), tmp_path / "out", model, **changes))
    assert manifest.counts.quarantined == 1
    ((why, members),) = read_quarantine(tmp_path / "out" / "quarantine" / "in.tar")
    assert why.reason == "geometry: something leaves the window, and geometry.leaving is drop"
    assert members["json"] == json.dumps(stated()).encode()


def test_columns_of_a_hugging_face_set_keep_their_types(tmp_path: Path, model: Path) -> None:
    features = Features(
        {
            "image": ImageFeature(),
            "annotation": ImageFeature(),
            "label": Value("int64"),
            "width": Value("int32"),
            "height": Value("int32"),
            "objects": {"bbox": List(List(Value("int64"), length=4)), "category": List(Value("string"))},
        }
    )
    row = {
        "image": {"bytes": rectangle("RGB", 255), "path": None}, "label": 1, "width": 40, "height": 20,
        "annotation": {"bytes": rectangle("L", 7), "path": None},
        "objects": {"bbox": [[16, 4, 12, 12], [0, 0, 3, 3]], "category": ["cat", "mat"]},
    }  # fmt: skip
    Dataset.from_list([row], features=features).to_parquet(tmp_path / "in" / "data.parquet")
    content = builders.recipe("", tmp_path / "out", model, **{"image.fit": "crop", "output.format": "parquet"})
    content["input"] = {"format": "hub", "path": "parquet", "data_files": str(tmp_path / "in" / "*.parquet")}
    content["input"] |= {"image": "image", "label": "label", "split": "train"}
    content["geometry"] = {
        "masks": "annotation", "boxes": "objects:bbox", "along": "objects:category", "format": "xywh",
    }  # fmt: skip
    manifest = run(content)
    (after,) = load_dataset("parquet", data_files=str(tmp_path / "out" / "data" / "*.parquet"), split="train")
    assert manifest.counts.written == 1
    assert after["objects"] == {"bbox": [[2, 2, 5, 4]], "category": ["cat"]}
    assert (after["width"], after["height"]) == (8, 8)
    assert after["annotation"].size == (8, 8)
    assert Frame.whole("L", (8, 8)).output == after["image"].size


def test_an_operator_that_moves_things_takes_no_geometry(tmp_path: Path) -> None:
    """Boxes would state where a thing was. Without the section, people are told whose they are."""
    content: dict[str, Any] = {
        "kind": "job", "input": {"format": "webdataset", "urls": "x.tar"}, "output": {"path": str(tmp_path / "out")},
        "model": {"path": "embedded:cifar10/model"}, "geometry": {"boxes": "json:bbox", "format": "xyxy"},
        "operator": {"name": "ddib", "source": "none", "target": "none", "image": [{"name": "rotate", "degrees": 90}]},
    }  # fmt: skip
    with pytest.raises(UserError, match="operator ddib moves what lies in an image"):
        validate(JobConfig, content, "test")
    content["operator"]["image"] = []
    validate(JobConfig, content, "test")
    (note,) = undeclared(None, {"json": b'{"bbox": [1, 2, 3, 4]}'}, Frame.whole("RGB", (8, 8)), stays=False)
    assert "boxes in its members are those of the source" in note
