"""The `geometry:` section of a recipe: which members and columns say where things are, and how they say it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, model_validator

from pipeline.section import Section

Format = Literal["xyxy", "xywh", "cxcywh", "normalised", "normalised xyxy"]
"""What the four numbers of a box are: left, top, right and bottom; left, top, width and height; or centre, width and
height; in pixels or, normalised, as fractions of the image's width and height. `normalised` alone is YOLO's, with the
centre first."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _are_places(places: tuple[str, ...]) -> tuple[str, ...]:
    for place in places:
        if not re.fullmatch(r"[^:]+(:[^.]+(\.[^.]+)*)?", place):
            raise ValueError(f"{place!r} names no member, column or field; allowed are MEMBER and MEMBER:FIELD.FIELD")
    return places


def _object_of(place: str) -> str:
    """The object that a field lies in; empty for a member or column of its own."""
    member, colon, field = place.partition(":")
    return f"{member}:{field.rpartition('.')[0]}" if colon else ""


Places = Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_are_places)]
"""Members or columns, and fields in their JSON: `bbox`, `json:bbox`, `json:annotations.bbox`. Where a field holds a
list of objects, those that follow lie in each of them."""


class GeometryConfig(Section):
    """What follows the image where its orientation, window or size change.

    `width` and `height` beside each other, which state the size of the source, come to state that of the output: in the
    member `json` and in all that are named here, at the top or one object below, and as two columns.
    """

    masks: Places = ()
    """Masks of the image's own size; each is a member, or a column of images. A pixel keeps its value."""
    boxes: Places = ()
    """Boxes in JSON: one, or a list of them. A text member (`txt`) has a line `CLASS N N N N` for each box, as YOLO's,
    and an `xml` is VOC's."""
    keypoints: Places = ()
    """Points in JSON: `[x, y]`, `[x, y, visibility]`, or COCO's flat `[x, y, visibility, x, …]`, in lists of any
    depth. A point with a visibility that leaves the window becomes `[0, 0, 0]`, and others keep their place outside."""
    polygons: Places = ()
    """Outlines in JSON, flat `[x, y, x, y, …]` or as points, one or a list of them; COCO's RLE; or, in a text member,
    lines `CLASS X Y X Y X Y …`."""
    areas: Places = ()
    """Areas in JSON, beside the boxes or outlines that they belong to: they change as those do."""
    along: Places | None = None
    """Lists beside a list of boxes, such as `objects:category`, that lose an item with each box that is lost; `[]` for
    none. Not needed where each box lies in an object of its own."""
    format: Format | None = None
    """What the four numbers of a box are. Points and outlines are in the same unit. VOC's XML needs none: pixels count
    from 1, and the last one belongs to the box; with `xyxy`, its numbers are taken as they are."""
    upright: bool = True
    """Whether places are those of the image as viewers show it, turned upright by its EXIF orientation, or else those
    of the pixels as they lie in the file."""
    leaving: Literal["clip", "drop"] = "clip"
    """What becomes of a box or outline that leaves the window: with `clip` it is cut at the border, and lost where
    nothing is left of it; with `drop` the sample goes to the quarantine where one leaves it by more than half a pixel,
    also for a point."""
    missing: Literal["refuse", "keep"] = "refuse"
    """Whether a sample that lacks one of these members or fields goes to the quarantine, or counts as one without."""

    @model_validator(mode="after")
    def _along_lies_beside(self) -> GeometryConfig:
        beside = {_object_of(place) for place in (*self.boxes, *self.polygons)}
        if apart := [place for place in self.along or () if _object_of(place) not in beside]:
            raise ValueError(f"along: {apart[0]!r} lies in no object that holds boxes or polygons, and cannot go along")
        return self

    @model_validator(mode="after")
    def _format_is_known(self) -> GeometryConfig:
        if self.format is None and any(not place.lower().endswith("xml") for place in self.boxes):
            raise ValueError("boxes need a format: xyxy, xywh, cxcywh, normalised (as YOLO's) or normalised xyxy")
        return self
