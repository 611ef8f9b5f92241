"""The recipes for COCO, YOLO and VOC, on small folders of these layouts: boxes are where the images show them."""

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.config import load_config
from pipeline.job.config import JobConfig
from tests import builders
from tests.geometry.test_geometry_jobs import BOX, bright, notes, rectangle, run

LEFT, TOP, RIGHT, BOTTOM = BOX
WIDE, HIGH = RIGHT - LEFT, BOTTOM - TOP
OUTLINE = [float(side) for side in (LEFT, TOP, RIGHT, TOP, RIGHT, BOTTOM, LEFT, BOTTOM)]


def element(name: str, x0: int, y0: int, x1: int, y1: int) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), (x0, y0, x1, y1), strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


COCO = {
    "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 20},
               {"id": 6, "file_name": "b.png", "width": 40, "height": 20}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "mat"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 2, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": 5, "category_id": 1, "bbox": [1.0 * LEFT, TOP, WIDE, HIGH], "area": 1.0 * WIDE * HIGH,
         "iscrowd": 0, "segmentation": [OUTLINE]},
    ],
}  # fmt: skip
YOLO = f"1 0.05 0.1 0.1 0.2\n0 {(LEFT + RIGHT) / 80} {(TOP + BOTTOM) / 40} {WIDE / 40} {HIGH / 20}\n"
XML = element("mat", 1, 1, 4, 4) + element("cat", LEFT + 1, TOP + 1, RIGHT, BOTTOM)
FOLDERS: dict[str, dict[str, bytes]] = {
    "coco": {
        "images/a.png": rectangle("RGB", 255),
        "images/b.png": rectangle("RGB", 255),
        "annotations/instances_images.json": json.dumps(COCO).encode(),
    },
    "yolo": {
        "images/a.png": rectangle("RGB", 255),
        "images/b.png": rectangle("RGB", 255),
        "labels/a.txt": YOLO.encode(),
    },
    "voc": {
        "JPEGImages/a.png": rectangle("RGB", 255),
        "JPEGImages/b.png": rectangle("RGB", 255),
        "Annotations/a.xml": f"<annotation><size><width>40</width></size>{XML}</annotation>".encode(),
        "SegmentationClass/a.png": rectangle("L", 7),
    },
}


def first_box(kind: str, members: dict[str, bytes]) -> Any:
    """The one box that is left of the sample `a`, its corners in pixels of an image of 8 × 8."""
    after = {name.partition("/a.")[2]: content for name, content in members.items()}
    if kind == "voc":
        (left,) = ElementTree.fromstring(after["xml"]).findall("object")
        assert left.findtext("name") == "cat"
        assert (np.asarray(Image.open(io.BytesIO(after["seg.png"]))) == 7).sum() == pytest.approx(25, abs=10)
        x0, y0, x1, y1 = (int(part.text or "") for part in left.find("bndbox") or ())
        return x0 - 1, y0 - 1, x1, y1
    if kind == "yolo":
        ((name, *numbers),) = [line.split() for line in after["txt"].decode().splitlines()]
        assert name == "0"
        x, y, wide, high = (8 * float(number) for number in numbers)
        return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2
    found = json.loads(after["json"])
    assert (found["category"], found["category_id"], found["iscrowd"]) == (["cat"], [1], [0])
    assert (found["width"], found["height"]) == (8, 8)
    ((x, y, wide, high),), (area,) = found["bbox"], found["area"]
    assert area == pytest.approx(WIDE * HIGH * 0.4**2)
    ((ring,),) = found["segmentation"]
    assert np.abs(np.reshape(ring, (4, 2)).max(0) - (x + wide, y + high)).max() <= 1
    return x, y, x + wide, y + high


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without classes."""
    return builders.model_folder(tmp_path_factory.mktemp("plain"), classes=None)


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_recipe_moves_what_the_layout_holds(kind: str, tmp_path: Path, plain: Path) -> None:
    for name, content in FOLDERS[kind].items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    job = builders.recipe("", tmp_path / "out", plain, **{"image.fit": "crop", "operator.t_boom": 0})
    job["input"] = {"format": "folder", "path": str(tmp_path / "in"), "layout": kind}
    geometry = load_config(JobConfig, f"{kind}_boxes").geometry
    assert geometry is not None
    job["geometry"] = geometry.model_dump()
    manifest = run(job)
    assert (manifest.counts.written, notes(manifest)) == (2, [])
    members: dict[str, bytes] = {}
    for shard in (tmp_path / "out" / "data").glob("*.tar"):
        members |= builders.members_of(shard)
    (picture,) = (content for name, content in members.items() if name.endswith("/a.png"))
    seen = Image.fromarray(bright(picture)).getbbox()
    assert seen is not None
    assert np.abs(np.subtract(seen, first_box(kind, members))).max() <= 1
