"""The members of a sample that go with its output as others: what they say of places follows the image."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pipeline.geometry.annotations import GONE, Path, changed, moved_object
from pipeline.geometry.config import GeometryConfig
from pipeline.geometry.lines import move_lines
from pipeline.geometry.masks import move_mask
from pipeline.geometry.moving import Mover, Unfollowed
from pipeline.geometry.voc import move_voc
from pipeline.media.frame import Frame
from pipeline.streams.columns import member_name

Members = Mapping[str, bytes]
IN_JSON = ("boxes", "keypoints", "polygons", "areas", "along")
"""The options that name members with text."""
SIZE = ("width", "height")
"""The fields that state the size of an image."""
COLUMNS_OF_SIZE = ("width.json", "height.json")
"""The members that are columns of these names."""


def follow(
    config: GeometryConfig, members: Members, frame: Frame, tell: Callable[[str], None] = lambda text: None
) -> dict[str, bytes]:
    """The members that change, in the geometry of the output; all others stay byte for byte.

    `tell` is told what people should know, in sentences without names. Raises `Unfollowed` where a member that the
    recipe names is missing or cannot follow.
    """
    followed, mover = dict[str, bytes](), Mover(config, frame, tell)
    if not frame.moved and frame.orientation == 1:
        return followed
    groups, texts = places(config, members)
    stated = {name for path, kinds in groups.items() for name in (path[:1] or kinds)}
    try:
        for member in found(config.masks, members, config) if mover.moves else ():
            followed[member] = moved_mask(member, members[member], mover)
        for member, kinds in texts.items():
            if member.lower().endswith("xml"):
                followed[member] = move_voc(members[member], mover)
            elif mover.moves:
                followed[member] = move_lines(members[member], kinds, mover)
        before = {member: json.loads(members[member]) for member in stated}
        before |= {member: value for member in ("json", *COLUMNS_OF_SIZE) if (value := readable(members, member))}
        after: Any = before
        for path, fields in groups.items() if mover.moves else ():
            after = changed(after, path, partial(moved_object, kinds=fields, mover=mover), config.missing == "keep")
            if after is GONE:
                raise Unfollowed("nothing of its box or outline is left in the window")
    except (ValueError, RecursionError) as error:
        raise Unfollowed(f"a member that geometry names cannot be read ({error})") from None
    after = sized({member: with_sizes(value, frame) for member, value in after.items()}, COLUMNS_OF_SIZE, frame)
    followed |= {
        member: json.dumps(value, ensure_ascii=False).encode()
        for member, value in after.items()
        if value != before[member]
    }
    return followed


def places(config: GeometryConfig, members: Members) -> tuple[dict[Path, dict[str, str]], dict[str, set[str]]]:
    """What is declared: in JSON, the kind of each field by the path of its object; and the kinds in each text member.

    A path begins with the member; that of the sample itself is empty, for what are members of their own.
    """
    groups: dict[Path, dict[str, str]] = defaultdict(dict)
    texts: dict[str, set[str]] = defaultdict(set)
    for kind in IN_JSON:
        for place in getattr(config, kind) or ():
            for member in found([place], members, config):
                field = place.partition(":")[2]
                if field or member.lower().endswith("json"):
                    *path, name = [member, *field.split(".")] if field else [member]
                    groups[tuple(path)][name] = kind
                else:
                    texts[member].add(kind)
    return groups, texts


def found(wanted: tuple[str, ...] | list[str], members: Members, config: GeometryConfig) -> list[str]:
    """The members that places lie in: those of that name, or else what a column of that name became."""
    result = list[str]()
    for place in wanted:
        name = place.partition(":")[0]
        columns = [f"{member_name(name)}.{suffix}" for suffix in ("json", "txt", "bin")]
        here = [each for each in (name, *columns) if each in members]
        if not here and config.missing == "refuse":
            raise Unfollowed(f"the sample has no member {name!r}; geometry.missing: keep takes it for one without")
        result += here[:1]
    return result


def moved_mask(member: str, content: bytes, mover: Mover) -> bytes:
    """A mask in the geometry of the output; in a column of images it lies in JSON, as `pipeline.streams` writes it."""
    move = partial(move_mask, frame=mover.frame, upright=mover.config.upright)
    if not member.lower().endswith("json"):
        return move(content)
    value = json.loads(content)
    if value is None:
        return content
    if not isinstance(value, dict) or not isinstance(value.get("bytes"), str):
        raise Unfollowed(f"{member} holds no image")
    data = move(base64.b64decode(value["bytes"]))
    return json.dumps({**value, "bytes": base64.b64encode(data).decode()}, ensure_ascii=False).encode()


def readable(members: Members, member: str) -> Any:
    """The JSON in a member; None where there is none."""
    try:
        return json.loads(members.get(member, b"null"))
    except (ValueError, RecursionError):
        return None


def with_sizes(value: Any, frame: Frame) -> Any:
    """JSON whose object, and the objects in that, state the size of the output where they stated that of the source."""
    if not isinstance(value, dict):
        return value
    inside = {name: sized(part, SIZE, frame) if isinstance(part, dict) else part for name, part in value.items()}
    return sized(inside, SIZE, frame)


def sized(value: dict[str, Any], names: tuple[str, str], frame: Frame) -> dict[str, Any]:
    """An object whose fields `names` state the size of the output where they stated that of the source."""
    stated = tuple(value.get(name) for name in names)
    return {**value, **dict(zip(names, frame.output, strict=True))} if stated in (frame.full, frame.stored) else value
