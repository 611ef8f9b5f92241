"""Classes of a data set as classes of a model: by name, or as a recipe maps them, never by a number that happens to be
the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import UserError
from pipeline.media.records import Sample, Unread
from pipeline.streams.labels import named

ClassMap = Literal["numbers"] | tuple[int | str, ...] | dict[int | str, int | str]
"""How classes of a data set become classes of a model: `numbers`, where both number them alike; a list with the model's
class, a name or a number, for each number of the data set; or a mapping from the data set's names or numbers to the
model's. What a mapping of names leaves out goes by its name: a declared one, or where none are, one of the model's."""
SHOWN = 400
"""Characters of a list of classes in a message, at most."""


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes of a data set, and what they are for a model."""

    names: tuple[str, ...] | None = None
    """The names of the data set's classes, by number; None where nobody names them."""
    table: Mapping[int, int] | None = None
    """The model's number of each of the data set's; None where they are the same, or no model asks."""
    by_name: bool = False
    """Whether a label counts only where it is a name: the data set declares none, and nobody says what numbers mean."""
    shown: Mapping[str, str] | None = None
    """The model's class of each of the data set's, by names where there are any; None where no model asks."""
    option: str | None = None
    """What the user says them by, where that alone knows the data set's classes."""

    def number(self, label: int) -> int | None:
        """The model's number of a class; None where it has none."""
        return label if self.table is None else self.table.get(label)

    def unknown(self, label: int, known: range) -> str | None:
        """Why a label is no class of a model with the classes `known`; None where it is one."""
        if self.number(label) in known:
            return None
        if self.table is None:
            return f"the model knows 0 to {known.stop - 1}"
        if self.option is not None:
            return f"{self.option} holds only {_cut([str(number) for number in sorted(self.table)])}"
        return f"the data set names 0 to {len(self.table) - 1}"

    def read(self, sample: Sample) -> Sample:
        """The sample with the number of its class, where its label is a name that is known here."""
        if self.by_name and sample.label is not None:
            return replace(sample, label=None, unread=Unread("number", str(sample.label)))
        return named(sample, self.names)


def match(
    given: ClassMap | None, names: Sequence[str] | None, model: Sequence[str] | None, count: int,
    *, option: str = "classes", secret: bool = False,
) -> Classes:  # fmt: skip
    """The classes of a data set with these `names` for a model of `count` classes, which may have names, too.

    `given` is what the user says by `option`. Without it, names are matched with names, and where neither side has
    names, numbers are taken as they are. Raises `UserError`, with both lists unless they are `secret`, where a class of
    the data set is none of the model's, or only the data set has names.
    """
    both = "" if secret else f"; the data set has {listed(names)}, the model {listed(model, count)}"
    ways = f"{option}: numbers takes the numbers as they are, a list or a mapping says it class by class{both}"
    if given == "numbers" or (given is None and names is None and model is None):
        names = names or model
        return _classes(names, None, {i: i for i in range(count)}, model)
    if given is None and names is None:
        return Classes(names=tuple(model or ()), by_name=True, shown={name: name for name in model or ()})
    if given is None and model is None:
        raise UserError(f"{option}: the data set names its classes, the model only numbers them; {ways}")
    pairs = dict(enumerate(given) if isinstance(given, tuple) else (given or {}).items())
    declared = names is not None
    if isinstance(given, tuple) and names is not None and len(given) != len(names):
        raise UserError(f"{option}: {len(given)} classes are listed for {len(names)} of the data set{both}")
    if names is None and all(isinstance(to, str) for to in pairs.values()) and isinstance(given, tuple):
        names = [str(to) for to in given]
    elif names is None and not all(map(_is_number, pairs)):
        names = [str(key) for key in pairs]
        names += [name for name in model or () if name not in pairs and (model or ()).count(name) == 1]
    table = dict[int, int]()
    for key, to in pairs.items():
        if (number := _among(key, names, None)) is None:
            raise UserError(f"{option}: {key!r} is no class of the data set{both}")
        if (wanted := _among(to, model, count)) is None:
            raise UserError(f"{option}: {to!r} is no class of the model, or two of its classes are called so{both}")
        table[number] = wanted
    for number, name in enumerate(names or ()):
        if number not in table:
            if model is None or (wanted := _among(name, model, count)) is None:
                what = "a class of the data set" if secret else f"the data set's class {name!r}"
                raise UserError(f"{option}: {what} is none of the model's, or two of them are called so; {ways}")
            table[number] = wanted
    by_name = not declared and isinstance(given, dict) and names is not None
    classes = _classes(names, table, table, model)
    return replace(classes, by_name=by_name, option=None if declared else option)


def in_words(classes: Mapping[str, str]) -> str:
    """What each class of the data set is for the model, in words."""
    return _cut([f"{name} → {to}" for name, to in classes.items()])


def listed(names: Sequence[str] | None, count: int = 0) -> str:
    """The classes of one side in words."""
    if names is None:
        return f"numbers only, 0 to {count - 1}" if count else "numbers only"
    return _cut(names)


def _cut(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} … ({len(names)} in all)"


def _classes(
    names: Sequence[str] | None, table: Mapping[int, int] | None, numbers: Mapping[int, int],
    model: Sequence[str] | None,
) -> Classes:  # fmt: skip
    def called(number: int, of: Sequence[str] | None) -> str:
        return of[number] if of is not None and number < len(of) else str(number)

    shown = {called(number, names): called(to, model) for number, to in numbers.items()}
    return Classes(names=None if names is None else tuple(names), table=table, shown=shown)


def _is_number(key: int | str) -> bool:
    return isinstance(key, int) or key.isdecimal()


def _among(key: int | str, names: Sequence[str] | None, count: int | None) -> int | None:
    """The number of a class that is given by name or number; None where there is none, or more than one."""
    if isinstance(key, str) and names is not None and (found := [i for i, name in enumerate(names) if name == key]):
        return found[0] if len(found) == 1 else None
    most = count if count is not None else None if names is None else len(names)
    number = int(key) if _is_number(key) else -1
    return number if number >= 0 and (most is None or number < most) else None
