"""Members that seem to say where things are, and that no recipe declares: people are told which line is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.geometry.config import GeometryConfig
from pipeline.geometry.following import readable, with_sizes
from pipeline.media.frame import Frame

FIELDS = {
    "boxes": re.compile(r"bbox(es)?|box(es)?|bounding_?box(es)?|rects?|rectangles?"),
    "keypoints": re.compile("keypoints?|landmarks?|points"),
    "polygons": re.compile("segmentations?|polygons?"),
}
"""Names of fields and columns that hold places, by the option that declares them."""
HOLDERS = ("annotations", "annotation", "objects", "instances", "faces", "detections", "shapes", "labels")
"""Fields whose objects hold such fields."""
HINT = re.compile(rb"box|rect|keypoint|landmark|segmentation|polygon|points")
"""What JSON holds that is worth a look."""
PICTURE = re.compile("png|tiff?|bmp|gif|webp|jpe?g|npy")
"""Extensions of images that may be masks."""
PLAIN = re.compile(r"(json|xml|txt|((seg|segmentation|mask|label|instance|semantic|panoptic|depth)s?\.)?\w{3,4})")
"""Names of members that can be told; others may name somebody."""
YOLO = {
    "boxes": re.compile(rb"\s*\d+(\.0+)?([ \t]+([01]?\.\d+|[01])){4}\s*"),
    "polygons": re.compile(rb"\s*\d+(\.0+)?([ \t]+([01]?\.\d+|[01])){6,}\s*"),
}
"""A line with a class and fractions, by the option that declares it."""


def undeclared(
    config: GeometryConfig | None, members: Mapping[str, bytes], frame: Frame, stays: bool = True
) -> tuple[str, ...]:
    """Notes on members that stay as they are although places in the image changed, each with the line to add.

    `stays` is false where the operator moves what lies in an image; no line helps, then.
    """
    if not stays:
        kinds = sorted({kind for name, content in members.items() for kind, _ in seen(name, content)})
        why = "the operator moves what lies in an image"
        return tuple(f"{why}, and what seem to be {kind} in its members are those of the source" for kind in kinds)
    if not frame.moved and frame.orientation == 1:
        return ()
    declared = {(kind, place.partition(":")[0]) for kind in ("masks", *FIELDS) for place in getattr(config, kind, ())}
    notes = [
        f"images were turned, cut or resized, and what seem to be {kind} in their members stayed as they were; to move "
        f"them, add geometry: {{{line}}}"
        for name, content in members.items()
        for kind, line in seen(name, content)
        if not {(kind, name), (kind, name.removesuffix(".json"))} & declared
    ]
    stated = readable(members, "json")
    if config is None and with_sizes(stated, frame) != stated:
        notes.append("the members json state width and height of the source, not of the output; geometry: {} mends it")
    return tuple(dict.fromkeys(notes))


def seen(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    """What a member seems to hold, by the option that declares it, and what a recipe would say of it."""
    plain = name if PLAIN.fullmatch(name.lower()) else "MEMBER"
    last, column = name.rpartition(".")[2].lower(), name.removesuffix(".json")
    if PICTURE.fullmatch(last):
        yield "masks", f"masks: {plain}"
    elif last == "xml" and b"<bndbox" in content:
        yield "boxes", f"boxes: {plain}"
    elif last == "txt" and content:
        for kind, line in YOLO.items():
            if all(map(line.fullmatch, content.splitlines())):
                yield kind, f"{kind}: {plain}, format: normalised"
    elif last == "json":
        if content.startswith(b'{"bytes": "'):
            yield "masks", "masks: COLUMN"
        places = [(kind, column) for kind, fields in FIELDS.items() if fields.fullmatch(column)]
        if HINT.search(content):
            told = name if name == "json" else column if column in HOLDERS else "MEMBER"
            places += [(kind, f"{told}:{field}") for kind, field in fields_in(readable({name: content}, name))]
        yield from ((kind, f"{kind}: {place}{', format: xywh' * (kind == 'boxes')}") for kind, place in places)


def fields_in(value: Any) -> Iterator[tuple[str, str]]:
    """The fields of a JSON object that seem to hold places, also of objects one below, with the options for them."""
    for holder in (None, *HOLDERS):
        inside = value if holder is None else value.get(holder) if isinstance(value, dict) else None
        first = inside[0] if isinstance(inside, list) and inside else inside
        for field in first if isinstance(first, dict) else ():
            for kind, fields in FIELDS.items():
                if fields.fullmatch(field):
                    yield kind, field if holder is None else f"{holder}.{field}"
