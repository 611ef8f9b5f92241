"""Boxes, points, outlines and areas in JSON: what is named is moved, and whatever stands beside it stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.geometry.moving import LOST, Mover, Unfollowed, is_nested

Path = tuple[str, ...]
"""Names of fields, one inside the other."""
Kinds = Mapping[str, str]
"""What fields of one object hold, by name: `boxes`, `keypoints`, `polygons`, `areas`, or lists `along` with them."""
GONE: Any = object()
"""Stands for an object of which nothing is left in the window."""


def changed(value: Any, path: Path, change: Callable[[Any, bool], Any], listed: bool = False) -> Any:
    """A JSON value with what lies at `path` replaced by what `change` makes of it, which is told if it is in a list.

    Lists on the way are gone through, and lose what becomes `GONE`. Raises `Unfollowed`.
    """
    if isinstance(value, list):
        return [new for part in value if (new := changed(part, path, change, True)) is not GONE]
    if not path:
        return change(value, listed)
    if not isinstance(value, dict):
        raise Unfollowed(f"an object with a field {path[0]!r} is expected, found {type(value).__name__}")
    if value.get(path[0]) is None:
        check_named(value, path[0], listed)
        return value
    new = changed(value[path[0]], path[1:], change, listed)
    return GONE if new is GONE else {**value, path[0]: new}


def check_named(value: dict[str, Any], field: str, listed: bool) -> None:
    """Raises `Unfollowed` where an object lacks a field, unless it is one of a list, or states null."""
    if field not in value and not listed:
        raise Unfollowed(f"it has no field {field!r}; geometry.missing: keep takes it for one without")


def moved_object(value: Any, listed: bool, kinds: Kinds, mover: Mover) -> Any:
    """An object with its fields moved; or, where these hold lists of many, the lists without those that are gone.

    It is `GONE` where nothing is left of its box or outline.
    """
    if not isinstance(value, dict):
        raise Unfollowed(f"an object with the fields {', '.join(kinds)} is expected, found {type(value).__name__}")
    for name in kinds:
        check_named(value, name, listed)
    here = {name: kind for name, kind in kinds.items() if value.get(name) is not None}
    if not any(several(value[name], kind) for name, kind in here.items()):
        new = moved_fields({name: value[name] for name in here}, here, mover)
        if new is not None and any(lost(value[name], new[name]) for name, kind in here.items() if kind == "polygons"):
            check_alone(mover)
        return GONE if new is None else {**value, **new}
    if not all(isinstance(value[name], list) and len(value[name]) == len(value[next(iter(here))]) for name in here):
        raise Unfollowed(f"the lists {', '.join(here)} are not of one length")
    rows = [dict(zip(here, row, strict=True)) for row in zip(*(value[name] for name in here), strict=True)]
    left = [new for row in rows if (new := moved_fields(row, here, mover)) is not None]
    if len(left) < len(rows):
        check_alone(mover)
    return {**value, **{name: [row[name] for row in left] for name in here}}


def check_alone(mover: Mover) -> None:
    """Raises `Unfollowed` where nobody has said which lists lose an item with each thing that is lost."""
    if mover.config.along is None:
        raise Unfollowed(
            "a box or outline lies outside of the window, and lists beside it would lose their place: "
            "name them in geometry.along, or [] if there are none"
        )


def lost(before: Any, after: Any) -> bool:
    """Whether outlines are lost from a list that may hold those of several things: a list of lists of lists."""
    deep = isinstance(before, list) and any(isinstance(part, list) and is_nested(part) for part in before)
    return deep and len(after) < len(before)


def several(value: Any, kind: str) -> bool:
    """Whether a field holds a list with an item for each thing, and not one thing."""
    boxes = kind == "boxes" and isinstance(value, list)
    return kind == "along" or (boxes and not any(isinstance(part, int | float) for part in value))


def moved_fields(fields: dict[str, Any], kinds: Kinds, mover: Mover) -> dict[str, Any] | None:
    """The fields of one thing; None where nothing is left of its box or outline."""
    new = dict(fields)
    for name, kind in kinds.items():
        if fields[name] is None or kind in ("along", "areas"):
            continue
        move = {"boxes": mover.box, "polygons": mover.outlines, "keypoints": mover.points}[kind]
        new[name] = move(fields[name])
        if new[name] is None:
            mover.tell(LOST)
            return None
    shapes = [name for kind in ("polygons", "boxes") for name in kinds if kinds[name] == kind and fields[name]]
    for name in kinds:
        if kinds[name] == "areas" and fields[name] is not None:
            sizes = [(fields, mover.source), (new, mover.frame.output)]
            before, after = (mover.extent(what[shapes[0]], size) if shapes else 0 for what, size in sizes)
            new[name] = mover.area(fields[name], before, after)
    return new
