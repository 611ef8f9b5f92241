"""Boxes that people have declared in an image: faces that must be found, and regions that must stay as they are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.anonymity.gate.config import AnonymityConfig, FacesOnly
from pipeline.anonymity.gate.face_masks import FaceBox
from pipeline.geometry.config import Places
from pipeline.geometry.moving import Unfollowed, numbers
from pipeline.media.frame import Frame

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

AROUND = FacesOnly().margin
"""What of its sides lies around a face's box that identifies people, too, and is not to be kept."""


def declared(places: Places, config: AnonymityConfig, members: Mapping[str, bytes], frame: Frame) -> list[FaceBox]:
    """The boxes that the members of a sample declare, in pixels of the image as the model sees it, cut at its border.

    What lies outside of it is left out. Raises `Unfollowed`, with a sentence without values, for a sample that lacks a
    member or field, or has something else there.
    """
    found = list[FaceBox]()
    for place in places:
        member, _, fields = place.partition(":")
        names = [name for name in (member, f"{member}.json") if name in members]
        try:
            value = json.loads(members[names[0]])
        except (IndexError, ValueError, RecursionError):
            raise Unfollowed(f"no JSON in {place}") from None
        for box in boxes_at(value, fields.split(".") if fields else [], place):
            left, top, right, bottom = seen(box, config.box_format or "xyxy", frame)
            if left < right and top < bottom:
                found.append((left, top, right - left, bottom - top))
    return found


def boxes_at(value: Any, fields: Sequence[str], place: str) -> Iterator[Any]:
    """Yields each list that holds no list, below some fields; a list of objects has them in each of its objects."""
    if isinstance(value, list) and (not value or isinstance(value[0], list | dict)):
        for item in value:
            yield from boxes_at(item, fields, place)
    elif fields and isinstance(value, dict) and fields[0] in value:
        yield from boxes_at(value[fields[0]], fields[1:], place)
    elif fields or not isinstance(value, list):
        raise Unfollowed(f"no boxes in {place}")
    else:
        yield value


def seen(box: Any, layout: str, frame: Frame) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box of the upright source, as the model sees it; see `GeometryConfig.format`."""
    first, second = numbers(box, 4).reshape(2, 2)
    if layout.startswith("normalised"):
        first, second = first * frame.full, second * frame.full
    if layout == "xywh":
        first, second = first, first + second
    elif layout in ("cxcywh", "normalised"):
        first, second = first - second / 2, first + second / 2
    if not (first <= second).all():
        raise Unfollowed("a box ends before it begins")
    low, high = np.array(frame.box[:2]), np.array(frame.box[2:])
    scale = (high - low) / frame.seen
    corners = (np.stack([first, second]) - frame.window[:2]) * scale + low
    (left, top), (right, bottom) = np.clip(corners, low, high).tolist()
    return left, top, right, bottom


def meet(one: FaceBox, other: FaceBox) -> float:
    """How many square pixels two boxes share."""
    (x, y, w, h), (left, top, wide, high) = one, other
    across, along = min(x + w, left + wide) - max(x, left), min(y + h, top + high) - max(y, top)
    return max(across, 0) * max(along, 0)


def all_found(faces: Sequence[FaceBox], found: Sequence[FaceBox]) -> bool:
    """Whether each of the declared faces has a found one of its own: the one that it shares most with."""
    best = [max(range(len(found)), key=lambda i: meet(face, found[i]), default=-1) for face in faces]
    own = [i for i, face in zip(best, faces, strict=True) if i >= 0 and meet(face, found[i]) > 0]
    return len(set(own)) == len(faces)


def with_margin(box: FaceBox) -> FaceBox:
    """The box of a face with what lies around it."""
    left, top, wide, high = box
    return left - AROUND * wide, top - AROUND * high, wide * (1 + 2 * AROUND), high * (1 + 2 * AROUND)


def touched(region: FaceBox) -> FaceBox:
    """The region, grown to whole pixels."""
    left, top, wide, high = region
    x, y = math.floor(left), math.floor(top)
    return x, y, math.ceil(left + wide) - x, math.ceil(top + high) - y


def restored(image: Pixels8, before: Pixels8, regions: Sequence[FaceBox]) -> Pixels8:
    """The image with the pixels of `before` in some regions of whole pixels; both are uint8 `[H, W, 3]`."""
    mixed = image.copy() if regions else image
    for left, top, wide, high in regions:
        part = slice(int(top), int(top + high)), slice(int(left), int(left + wide))
        mixed[part] = before[part]
    return mixed
