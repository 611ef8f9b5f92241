"""VOC's XML: `size`, and a `bndbox` in every `object`, and in the parts of one."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from pipeline.geometry.moving import LOST, Mover, Unfollowed

SIDES = ("xmin", "ymin", "xmax", "ymax")
"""The elements of a box."""


def move_voc(content: bytes, mover: Mover) -> bytes:
    """The annotation with its boxes moved, without the objects and parts that lie outside of the window.

    Raises `Unfollowed` for what is no such XML, or declares a document type, which could make it explode.
    """
    root = parsed(content)
    if mover.moves:
        first = 0 if mover.config.format == "xyxy" else 1
        for holder in list(root.iter()):
            for element in holder.findall("object") + holder.findall("part"):
                if (box := element.find("bndbox")) is not None and not moved_box(box, first, mover):
                    holder.remove(element)
                    mover.tell(LOST)
    for name, side in zip(("width", "height"), mover.frame.output, strict=True):
        if (stated := root.find(f"size/{name}")) is not None:
            stated.text = str(side)
    return ElementTree.tostring(root, encoding="utf-8")


def parsed(content: bytes) -> ElementTree.Element:
    """The root of an XML text without a document type."""

    def refuse(*declared: Any) -> None:
        raise Unfollowed("the XML declares a document type")

    try:
        scout = expat.ParserCreate()
        scout.StartDoctypeDeclHandler = refuse
        scout.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, ValueError) as error:
        raise Unfollowed(f"no XML can be read ({error})") from None


def moved_box(box: ElementTree.Element, first: int, mover: Mover) -> bool:
    """Moves a `bndbox` in place, whose pixels count from `first`; false where nothing of it is left."""
    texts = [box.findtext(side, "").strip() for side in SIDES]
    try:
        low_x, low_y, high_x, high_y = map(float, texts)
    except ValueError:
        raise Unfollowed(f"a bndbox has no {', '.join(SIDES)}") from None
    corners = np.array([(low_x - first, low_y - first), (high_x, high_y)])
    if not np.isfinite(corners).all():
        raise Unfollowed("a bndbox is not finite")
    whole = all(text.lstrip("+-").isdigit() for text in texts)
    moved, counted = mover.corners(corners, whole=whole), [[first], [0]]
    if moved is None:
        return False
    for side, value in zip(SIDES, mover.listed((moved + counted).ravel(), whole=whole), strict=True):
        element = box.find(side)
        assert element is not None
        element.text = str(value)
    return True
