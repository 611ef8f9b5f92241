"""Edits (caption, edited caption, instruction) from captions: by rules, from a file, or by a function of the user's.

They are the triples of InstructPix2Pix (2211.09800, section 3.1.1), where a language model writes them. As lines of a
jsonl file they are what the input format `captions` reads.
"""

from __future__ import annotations

import importlib
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.config import validate
from pipeline.errors import UserError
from pipeline.section import LocalPath, OneOf, Section

Text = Annotated[str, Field(pattern=r"\S")]
"""A text that is not blank."""


class Edit(BaseModel):
    """One edit; made by keyword, and unknown fields are ignored."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default="", coerce_numbers_to_str=True)
    """Unique, as given by `write_edits`; what a writer puts here is replaced."""
    caption: Text
    """What the image shows before."""
    edited: Text
    """What the image shows after; it differs from `caption`."""
    instruction: Text
    """What is to be done to the image."""

    @model_validator(mode="after")
    def _changes_something(self) -> Edit:
        if self.edited == self.caption:
            raise ValueError("'edited' is the same as 'caption'")
        return self


Writer = Callable[[str], Iterable[Edit]]
"""Makes the edits of a caption, none or many, and the same ones each time it is asked."""


class Rule(Section):
    """Exchanges a word, or several in a row, wherever it stands alone, in upper or lower case."""

    find: str = Field(pattern=r"^\S(.*\S)?$")
    """The word to exchange."""
    replace: tuple[Text, ...] = Field(min_length=1)
    """One word or many; each gives an edit of its own."""
    instruction: str = "turn the {find} into a {replace}"
    """The instruction, in which {find} and {replace} stand for the rule's own words."""

    @field_validator("replace", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sense(self) -> Rule:
        if self.find.casefold() in [word.casefold() for word in self.replace]:
            raise ValueError(f"{self.find!r} would be replaced by itself")
        try:
            fields = {field[1:] for field in string.Formatter().parse(self.instruction) if field[1] is not None}
        except ValueError:  # a brace without its partner
            fields = {("", "", None)}
        if not self.instruction.strip() or not fields <= {("find", "", None), ("replace", "", None)}:
            raise ValueError("instruction: text is expected, with no other braces than {find} and {replace}")
        return self


class Edits(OneOf):
    """The source of edits: exactly one of the three."""

    rules: tuple[Rule, ...] | None = Field(default=None, min_length=1)
    """Rules that are applied to each caption."""
    file: LocalPath | None = None
    """A jsonl file of finished edits, with `id`, `caption`, `edited` and `instruction` in each line; captions are not
    read."""
    writer: str | None = None
    """A `Writer` as `package.module:function`. It is code of the recipe's owner, and is run."""


def write_edits(config: Edits, captions: Iterable[tuple[str, str]]) -> Iterator[Edit]:
    """Yields the edits of all (id, caption), in order; an edit's id is that of its caption with numbers behind it.

    Raises `UserError` at once for a file or a function that is not there, and later for bad lines or edits.
    """
    if config.rules is not None:
        return _by_rules(config.rules, captions)
    if config.writer is not None:
        return _by_writer(load_writer(config.writer), config.writer, captions)
    file = Path(config.file or "")
    if not file.is_file():
        raise UserError(f"file: {config.file!r} does not exist; a jsonl file of edits is expected")
    return _from_file(file)


def to_line(edit: Edit) -> bytes:
    """An edit as one line of jsonl, with its line end."""
    return json.dumps(edit.model_dump(), ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def load_writer(name: str) -> Writer:
    """Imports `package.module:function`. Raises `UserError` where there is no such function.

    Other errors that importing the module raises are not caught.
    """
    module, _, function = name.partition(":")
    if not module or module.startswith(".") or not function:
        raise UserError(f"writer: {name!r} is not the name of a function; package.module:function is expected")
    try:
        found: Writer | None = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise UserError(
            f"writer: {module!r} cannot be imported ({error}); is it installed, or on PYTHONPATH?"
        ) from None
    if not callable(found):
        raise UserError(f"writer: {module!r} has no function {function!r}")
    return found


def _by_rules(rules: tuple[Rule, ...], captions: Iterable[tuple[str, str]]) -> Iterator[Edit]:
    patterns = [re.compile(rf"(?<!\w){re.escape(rule.find)}(?!\w)", re.IGNORECASE) for rule in rules]
    for id, caption in captions:
        for i, (rule, pattern) in enumerate(zip(rules, patterns, strict=True)):
            pieces = pattern.split(caption)
            for j, word in enumerate(rule.replace if len(pieces) > 1 else ()):
                instruction = rule.instruction.format(find=rule.find, replace=word)
                yield Edit(id=f"{id}-{i}-{j}", caption=caption, edited=word.join(pieces), instruction=instruction)


def _by_writer(writer: Writer, name: str, captions: Iterable[tuple[str, str]]) -> Iterator[Edit]:
    for id, caption in captions:
        for i, edit in enumerate(writer(caption)):
            if not isinstance(edit, Edit):
                raise UserError(f"writer: {name} gave {repr(edit)[:80]} for {caption[:80]!r}; an Edit is expected")
            yield edit.model_copy(update={"id": f"{id}-{i}"})


def _from_file(file: Path) -> Iterator[Edit]:
    seen = set[str]()
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                content = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not valid JSON ({error})") from None
            if not isinstance(content, dict):
                raise UserError(f"{where}: a JSON object is expected, found {repr(content)[:80]}")
            edit = validate(Edit, content, where)
            if not edit.id or edit.id in seen:
                raise UserError(f"{where}: id is {edit.id!r}; text is expected that no line before has")
            seen.add(edit.id)
            yield edit
