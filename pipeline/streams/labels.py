"""What stands in the place of a label: the number of a class, its name, several classes, or nothing that can be read.

A whole number is one however it is written: `3`, `3.0`, the JSON text `"3"`. In a plain member a number comes before a
name; a JSON text is a name first, where the data set names its classes so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.media.records import Sample, Unread

NUMBER = re.compile(r"\s*([+-]?[0-9]{1,40})(?:\.0*)?\s*")
"""A whole number in decimal digits."""
LIST = re.compile(r"\s*[0-9.eE+-]+(?:(?:\s*,\s*|\s+)[0-9.eE+-]+)+\s*")
"""Several numbers with commas or blanks between them."""
SHOWN = 60
"""Characters of a label that cannot be read, of those that are shown."""
LONGEST = 300
"""Characters of the name of a class, at most."""
NUMBERS = range(-(1 << 63), 1 << 63)
"""Numbers that fit 64 bits."""


class Label(NamedTuple):
    """The number of a class, or what stands in its place; neither where there is no label."""

    number: int | None = None
    unread: Unread | None = None


NO_LABEL = Label()
"""The label of a sample that has none."""


def member_label(members: Mapping[str, bytes], where: str, names: Sequence[str] | None = None) -> Label:
    """The label in member `cls`, or in a field of a JSON member, `json:label`; `names` are those of the classes.

    A member in other case (`CLS`) is taken where none is written as asked.
    """
    wanted, _, field = where.partition(":")
    member = next((name for name in members if name.lower() == wanted.lower()), None)
    content = members.get(wanted, members[member] if member is not None else None)
    if content is None:
        return NO_LABEL
    if field:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return _unreadable(content.decode(errors="replace"))
        return value_label(found[field], names) if isinstance(found, dict) and field in found else NO_LABEL
    try:
        text = content.decode()
        return value_label(json.loads(text), names) if text.lstrip()[:1] == '"' else _plain(text, names)
    except (ValueError, RecursionError):
        return _unreadable(content.decode(errors="replace"))


def value_label(value: Any, names: Sequence[str] | None = None) -> Label:
    """The label that a value of JSON or of a column is."""
    match value:
        case None:
            return NO_LABEL
        case bool():
            return _unreadable(json.dumps(value))
        case int() if value in NUMBERS:
            return Label(value)
        case float() if math.isfinite(value) and value == int(value) and int(value) in NUMBERS:
            return Label(int(value))
        case str():
            return Label(names.index(value)) if names is not None and value in names else _plain(value, names)
        case list() | tuple() | dict():
            return Label(unread=Unread("several", _cut(str(value))))
    return _unreadable(str(value))


def named(sample: Sample, names: Sequence[str] | None) -> Sample:
    """The sample with the number that its label has among `names`, where it is one of these."""
    if names is None or sample.unread is None or sample.unread.kind != "name" or sample.unread.text not in names:
        return sample
    return replace(sample, label=names.index(sample.unread.text), unread=None)


def _plain(text: str, names: Sequence[str] | None) -> Label:
    if (number := NUMBER.fullmatch(text)) and int(number[1]) in NUMBERS:
        return Label(int(number[1]))
    name = text.strip()
    if names is not None and name in names:
        return Label(names.index(name))
    if LIST.fullmatch(text) or name[:1] in ("[", "{"):
        return Label(unread=Unread("several", _cut(name)))
    is_name = name.isprintable() and any(map(str.isalpha, name)) and len(name) <= LONGEST
    return Label(unread=Unread("name", name)) if is_name else _unreadable(name)


def _unreadable(text: str) -> Label:
    return Label(unread=Unread("unreadable", _cut(text)))


def _cut(text: str) -> str:
    return text[:SHOWN]
