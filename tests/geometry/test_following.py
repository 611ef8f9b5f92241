"""Members of COCO, YOLO, VOC and Hugging Face follow the image; whatever stands beside places stays."""

import base64
import json
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pipeline.geometry.config import GeometryConfig
from pipeline.geometry.following import follow
from pipeline.geometry.moving import Unfollowed
from pipeline.geometry.rle import write_rle
from pipeline.geometry.undeclared import undeclared
from pipeline.media.frame import Frame
from tests.geometry.frames import frame
from tests.geometry.test_masks import saved, values

HALF = frame(60, 40, "crop", size=(20, 20))
"""Sees x from 10 to 50, at half the size."""
COCO = {
    "image": {"id": 7, "width": 60, "height": 40, "file_name": "ü.jpg"},
    "annotations": [
        {"id": 1, "bbox": [20.0, 10.0, 20.0, 16.0], "area": 320.0, "category_id": 3, "iscrowd": 0,
         "keypoints": [22, 12, 2, 5, 12, 2, 0, 0, 0], "segmentation": [[20.0, 10, 40, 10, 40, 26, 20, 26]]},
        {"id": 2, "bbox": [0.0, 0.0, 8.0, 8.0], "area": 64.0, "category_id": 1, "segmentation": [[0.0, 0, 8, 0, 8, 8]]},
        {"id": 3, "bbox": [0.0, 0.0, 30.0, 40.0], "area": 600.0, "category_id": 2, "iscrowd": 1,
         "segmentation": write_rle(np.arange(60)[None].repeat(40, 0).__lt__(30).astype(np.uint8), {"counts": []})},
    ],
}  # fmt: skip
COCO_OPTIONS: dict[str, Any] = {
    "boxes": "json:annotations.bbox", "polygons": "json:annotations.segmentation", "areas": "json:annotations.area",
    "keypoints": "json:annotations.keypoints", "format": "xywh",
}  # fmt: skip
OBJECTS = {"id": [1, 2, 3], "bbox": [[20, 10, 20, 16], [0, 0, 8, 8], [0, 0, 30, 40]], "category": [3, 1, 2]}
VOC = b"""<annotation>
  <filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
  <object><name>dog</name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>40</xmax><ymax>26</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>21.5</xmin><ymin>11</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></part></object>
  <object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>8</xmax><ymax>8</ymax></bndbox></object>
</annotation>"""


def js(value: Any) -> bytes:
    return json.dumps(value).encode()


def moved(members: dict[str, bytes], where: Frame = HALF, **options: Any) -> dict[str, bytes]:
    return follow(GeometryConfig(**options), members, where)


def test_coco() -> None:
    after = json.loads(moved({"json": js(COCO)}, **COCO_OPTIONS)["json"])
    assert after["image"] == {"id": 7, "width": 20, "height": 20, "file_name": "ü.jpg"}
    whole, cut = after["annotations"]  # the second lay outside
    assert whole == {
        "id": 1, "bbox": [5, 5, 10, 8], "area": 80, "category_id": 3, "iscrowd": 0,
        "keypoints": [6, 6, 2, 0, 0, 0, 0, 0, 0], "segmentation": [[5, 5, 15, 5, 15, 13, 5, 13]],
    }  # fmt: skip
    assert (cut["id"], cut["bbox"]) == (3, [0, 0, 10, 20])
    assert cut["segmentation"] == {"size": [20, 20], "counts": [0, 200, 200]}
    assert cut["area"] == pytest.approx(600 * 200 / 1200)


def test_lists_beside_each_other() -> None:
    members = {"objects.json": js(OBJECTS), "width.json": b"60", "height.json": b"40"}
    along = ["objects:category", "objects:id"]
    after = moved(members, boxes="objects:bbox", along=along, format="xywh")
    assert json.loads(after["objects.json"]) == {
        "id": [1, 3],
        "bbox": [[5, 5, 10, 8], [0, 0, 10, 20]],
        "category": [3, 2],
    }
    assert (after["width.json"], after["height.json"]) == (b"20", b"20")
    with pytest.raises(Unfollowed, match=r"geometry\.along"):
        moved(members, boxes="objects:bbox", format="xywh")
    of_some = {"bbox": [None, [20, 10, 20, 16]], "category": ["a", "b"]}
    after = moved({"json": js(of_some)}, boxes="json:bbox", along="json:category", format="xywh")
    assert json.loads(after["json"]) == {"bbox": [None, [5, 5, 10, 8]], "category": ["a", "b"]}
    with pytest.raises(Unfollowed, match="not of one length"):
        moved({"objects.json": js({**OBJECTS, "id": [1]})}, boxes="objects:bbox", along=along, format="xywh")


def test_columns_beside_each_other() -> None:
    members = {"bbox.json": js(OBJECTS["bbox"]), "class.json": js(OBJECTS["category"]), "other.json": b"[1,2,3]"}
    after = moved(members, boxes="bbox", along="class", format="xywh")
    assert {name: json.loads(content) for name, content in after.items()} == {
        "bbox.json": [[5, 5, 10, 8], [0, 0, 10, 20]],
        "class.json": [3, 2],
    }
    assert moved({"bbox.json": b"null"}, boxes="bbox", format="xywh") == {}
    assert moved({"bbox.json": b"[]"}, boxes="bbox", format="xywh") == {}


def test_yolo() -> None:
    lines = b"3 0.5 0.45 0.333333 0.4\n1 0.066667 0.1 0.133333 0.2\n\nc2 0.25 .5 .5 1.0\n"
    assert moved({"txt": lines}, boxes="txt", format="normalised")["txt"].decode().split("\n") == [
        "3 0.5 0.45 0.5 0.4",
        "c2 0.25 0.5 0.5 1",
        "",
    ]
    outline = b"3 0.333333 0.25 0.666667 0.25 0.666667 0.65\n"
    both = moved({"txt": lines + outline}, boxes="txt", polygons="txt", format="normalised")["txt"]
    assert both.split(b"\n")[2].decode().split() == ["3", "0.25", "0.25", "0.75", "0.25", "0.75", "0.65"]
    with pytest.raises(Unfollowed, match="line 5 has 6 numbers behind its class: 4 make a box"):
        moved({"txt": lines + outline}, boxes="txt", format="normalised")


def test_voc() -> None:
    root = ElementTree.fromstring(moved({"xml": VOC}, boxes="xml")["xml"])
    assert [root.findtext(f"size/{name}") for name in ("width", "height", "depth")] == ["20", "20", "3"]
    assert [found.text for found in root.findall("object/name")] == ["dog"]
    assert [found.text for found in root.find("object/bndbox") or ()] == ["6", "6", "15", "13"]
    assert [found.text for found in root.find("object/part/bndbox") or ()] == ["6.25", "6.0", "10.0", "10.0"]
    assert root.findtext("filename") == "a.jpg"
    plain = ElementTree.fromstring(moved({"xml": VOC}, boxes="xml", format="xyxy")["xml"])
    assert [found.text for found in plain.find("object/part/bndbox") or ()] == ["5.75", "5.5", "10.0", "10.0"]


HIDDEN = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a []><a/>'.encode("utf-16")


@pytest.mark.parametrize("text", [b"", b"<a>", b"\xff\xfe<", b'<!DOCTYPE a [<!ENTITY b "bb">]><a/>', HIDDEN])
def test_what_is_no_xml_or_could_explode(text: bytes) -> None:
    with pytest.raises(Unfollowed, match="XML"):
        moved({"xml": text}, boxes="xml")


def test_a_mask_in_a_column() -> None:
    mask = Image.new("L", (60, 40))
    mask.paste(7, (10, 0, 30, 40))
    column = {"bytes": base64.b64encode(saved(mask)).decode(), "path": "m.png"}
    after = moved({"annotation.json": js(column), "seg.png": saved(mask)}, masks=["annotation", "seg.png"])
    inside = json.loads(after["annotation.json"])
    assert inside["path"] == "m.png"
    assert base64.b64decode(inside["bytes"]) == after["seg.png"]


def test_what_did_not_move_stays_byte_for_byte() -> None:
    members = {
        "json": b'{"width": 60,  "height":40, "bbox": [1.00, 2, 3, 4]}',
        "seg.png": saved(Image.new("L", (60, 40))),
    }
    options: dict[str, Any] = {"boxes": "json:bbox", "masks": "seg.png", "format": "xywh"}
    assert moved(members, HALF.restored().whole("L", (60, 40)), **options) == {}
    turned = frame(60, 40, "resize", orientation=3, size=None)
    assert moved(members, turned, **options) == {}
    on_its_head = moved(members, turned, **options, upright=False)
    assert json.loads(on_its_head["json"])["bbox"] == [56, 34, 3, 4]


@pytest.mark.parametrize("orientation", [6, 8])
def test_sizes_of_a_turned_image(orientation: int) -> None:
    where = frame(40, 60, orientation=orientation, size=None)
    stated = {"width": 60, "height": 40, "thumbnail": {"width": 6, "height": 4}}
    assert json.loads(moved({"json": js(stated)}, where)["json"]) == {**stated, "width": 40, "height": 60}


@pytest.mark.parametrize(
    ("members", "options", "why"),
    [
        ({}, {"boxes": "json:bbox", "format": "xywh"}, "no member 'json'; geometry.missing: keep"),
        ({"json": b"{}"}, {"boxes": "json:bbox", "format": "xywh"}, "no field 'bbox'; geometry.missing: keep"),
        ({"json": b"{}"}, {"boxes": "json:a.bbox", "format": "xywh"}, "no field 'a'; geometry.missing: keep"),
        ({"json": b"[3]"}, {"boxes": "json:bbox", "format": "xywh"}, "an object .* is expected, found int"),
        ({"json": b"{"}, {"boxes": "json:bbox", "format": "xywh"}, "cannot be read"),
        ({"json": b"[" * 100_000}, {"boxes": "json:bbox", "format": "xywh"}, "cannot be read"),
        ({"json": b'{"bbox": [0, 0, 3, 3]}'}, {"boxes": "json:bbox", "format": "xywh"}, "nothing .* is left"),
        ({"json": b'{"p": [1, 2, 3, 4]}'}, {"keypoints": "json:p"}, "keypoints are"),
        ({"json": b'{"p": [1, 2, 3, 4]}'}, {"polygons": "json:p"}, "3 points or more"),
        ({"json": b'{"p": {"size": [1, 1], "counts": [1]}}'}, {"polygons": "json:p"}, "RLE cannot be read"),
        ({"seg.png": b"x"}, {"masks": "seg.png"}, "no mask can be read"),
        ({"txt": b"1 a b c d"}, {"boxes": "txt", "format": "normalised"}, "numbers are expected"),
        ({"txt": b"\xff"}, {"boxes": "txt", "format": "normalised"}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_follow(members: dict[str, bytes], options: dict[str, Any], why: str) -> None:
    with pytest.raises(Unfollowed, match=why):
        moved(members, **options)
    if "missing: keep" in why:
        assert moved(members, **options, missing="keep") == {}


plain = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.booleans()
names = st.sampled_from("ab")
trees = st.recursive(plain, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner), max_leaves=9)


@given(trees)
def test_nothing_in_json_is_worse_than_unfollowed(value: Any) -> None:
    declared: list[dict[str, Any]] = [
        {"boxes": "m:a", "format": "xywh"}, {"keypoints": "m:a.b"}, {"polygons": "m:a"},
        {"areas": "m:a", "boxes": "m:b", "format": "normalised"}, {"boxes": "m:a", "along": "m:b", "format": "cxcywh"},
    ]  # fmt: skip
    for options in declared:
        with suppress(Unfollowed):
            moved({"m": js(value)}, **options)


@given(
    st.lists(st.sampled_from(["1", " ", "\n", ".5", "-3", "x", "nan", "1e300", "\t", "0.25 0.5 0.5 0.5"])).map("".join)
)
def test_no_line_is_worse_than_unfollowed(text: str) -> None:
    for layout in ("normalised", "xyxy"):
        with suppress(Unfollowed):
            moved({"txt": text.encode()}, boxes="txt", polygons="txt", format=layout)


@given(st.text("0123456789.-ex \n", max_size=8), st.sampled_from(["xmin", "ymax", "bndbox", "object", "width"]))
def test_no_xml_is_worse_than_unfollowed(text: str, name: str) -> None:
    for xml in (VOC.replace(b"21", text.encode()), VOC.replace(name.encode(), b"part")):
        with suppress(Unfollowed):
            moved({"xml": xml}, boxes="xml")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"boxes": "json:bbox"}, "boxes need a format"),
        ({"masks": ["a:"]}, "names no member"),
        ({"keypoints": "json:a..b"}, "names no member"),
        ({"format": "yolo"}, "Input should be"),
    ],
)
def test_a_section_that_is_wrong(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        GeometryConfig(**options)


@pytest.mark.parametrize(
    ("members", "lines"),
    [
        ({"json": js(COCO)}, ["boxes: json:annotations.bbox, format: xywh", "keypoints: json:annotations.keypoints",
                              "polygons: json:annotations.segmentation", "{}"]),
        ({"bbox.json": b"[[1, 2, 3, 4]]"}, ["boxes: bbox, format: xywh"]),
        ({"objects.json": js(OBJECTS)}, ["boxes: objects:bbox, format: xywh"]),
        ({"xml": VOC}, ["boxes: xml"]),
        ({"txt": b"0 0.5 0.5 1 1\n3 .2 .3 .1 .1"}, ["boxes: txt, format: normalised"]),
        ({"seg.png": saved(Image.fromarray(values()))}, ["masks: seg.png"]),
        ({"jane_doe.png": b"", "jane.json": b'{"bbox": []}'}, ["masks: MEMBER", "boxes: MEMBER:bbox, format: xywh"]),
        ({"annotation.json": b'{"bytes": "", "path": null}'}, ["masks: COLUMN"]),
        ({"txt": b"7 wonders of the world", "cls": b"3", "json": b'{"width": 5, "height": 4, "text": "box"}'}, []),
    ],
)  # fmt: skip
def test_what_nobody_declared_is_told_with_the_line_that_declares_it(members: Any, lines: list[str]) -> None:
    notes = undeclared(None, members, HALF)
    assert len(notes) == len(lines)
    for note, line in zip(notes, lines, strict=True):
        assert f"geometry: {{{line}}}" in note or line in note.partition("geometry: ")[2]
        assert "jane" not in note
    assert undeclared(None, members, Frame.whole("L", (60, 40))) == ()
    if "json" in members and lines:
        assert undeclared(GeometryConfig(**COCO_OPTIONS), members, HALF) == ()


def test_lists_beside_outlines_do_not_lose_their_place() -> None:
    """One outline lies left of the window: what stands beside it at its place must not become the other's."""
    outlines = [[[0, 0, 4, 0, 4, 4, 0, 4]], [[20, 5, 40, 5, 40, 25, 20, 25]]]
    members = {"json": js({"segmentation": outlines, "category": ["left", "mid"]})}
    with pytest.raises(Unfollowed, match=r"geometry\.along"):
        moved(members, polygons="json:segmentation")
    after = moved(members, polygons="json:segmentation", along="json:category")
    assert json.loads(after["json"])["category"] == ["mid"]
    assert len(json.loads(moved(members, polygons="json:segmentation", along=[])["json"])["segmentation"]) == 1


def test_a_list_that_lies_elsewhere_cannot_go_along() -> None:
    with pytest.raises(ValueError, match=r"'json:labels' lies in no object that holds boxes or polygons"):
        GeometryConfig(boxes=("json:objects.bbox",), along=("json:labels",), format="xywh")


def test_boxes_that_are_lost_are_told_of_and_pixels_are_no_fractions() -> None:
    told = list[str]()
    config = GeometryConfig(boxes=("json:bbox",), format="xywh", along=())
    follow(config, {"json": js({"bbox": [[0, 0, 4, 4], [20, 10, 20, 16]]})}, HALF, told.append)
    assert told == ["a box or outline lies outside of the window, and is left out"]
    with pytest.raises(Unfollowed, match=r"far from 0 to 1; geometry\.format may be another"):
        moved({"txt": b"0 20 15 20 20\n"}, boxes="txt", format="normalised")


@pytest.mark.parametrize(
    ("member", "content", "line"),
    [
        ("txt", b"0 .1 .1 .5 .1 .5 .5\n", "polygons: txt, format: normalised"),
        ("txt", b"0.0 .5 .5 .1 .1\n", "boxes: txt, format: normalised"),
        ("json", b'{"shapes": [{"points": [[1, 2], [3, 4]]}]}', "keypoints: json:shapes.points"),
        ("json", b'{"detections": [{"bbox": [1, 2, 3, 4]}]}', "boxes: json:detections.bbox, format: xywh"),
        ("mask.webp", b"", "masks: mask.webp"),
    ],
)
def test_what_other_tools_write_is_told_of(member: str, content: bytes, line: str) -> None:
    assert any(f"geometry: {{{line}}}" in note for note in undeclared(None, {member: content}, HALF))
