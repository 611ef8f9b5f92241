"""Records that are written as JSON and read again.

Each has one schema with a version, and is read whole or not at all.
"""

from __future__ import annotations

import json
from typing import Annotated, Self

from pydantic import PlainValidator, ValidationError

from pipeline.errors import UserError
from pipeline.plain_json import parse_json_object
from pipeline.section import Section


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text is expected")
    return value


Text = Annotated[str, PlainValidator(_text)]
"""Text that need not be Unicode: names in tars may hold any bytes (lone surrogates, PEP 383), which pydantic's `str`
refuses."""


class Versioned(Section):
    """A record that states the version of the schema it was written by, which is the default of `version`."""

    version: int = 1
    """Number of the schema."""

    def to_json(self, indent: int | None = None) -> str:
        """The record as JSON in ASCII; `from_json` gives the same record back."""
        return json.dumps(self.model_dump(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Reads a record from JSON.

        Raises `UserError`, one sentence that begins with `where`, for what is no such record, or is by another version
        of doppel.
        """
        content = parse_json_object(text, where)
        expected, found = cls.model_fields["version"].default, content.get("version")
        if found != expected:
            by = "an older version of doppel" if found is None else f"another version of doppel, in schema {found!r}"
            raise UserError(f"{where} was written by {by}; this one reads schema {expected} only")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            place, why = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
            raise UserError(f"{where}: {place}: {why}") from None
