"""Records that are written as JSON and read again: one schema each, with a version, read whole or not at all."""

from __future__ import annotations

import json
from typing import Annotated, Self

from pydantic import PlainValidator, ValidationError

from pipeline.errors import UserError
from pipeline.section import Section


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text is expected")
    return value


Text = Annotated[str, PlainValidator(_text)]
"""Text that need not be Unicode: names in tars may hold any bytes (lone surrogates, PEP 383); pydantic's `str` must."""


class Versioned(Section):
    """A record that says by which version of its schema it was written: the default of `version`."""

    version: int = 1

    def to_json(self, indent: int | None = None) -> str:
        """In ASCII; `from_json` gives the same record back."""
        return json.dumps(self.model_dump(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Raises `UserError`, one sentence that begins with `where`, also for what another version of doppel wrote."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not valid JSON ({error})") from None
        if not isinstance(content, dict):
            raise UserError(f"{where}: a JSON object is expected, found {type(content).__name__}")
        expected, found = cls.model_fields["version"].default, content.get("version")
        if found != expected:
            by = "an older version of doppel" if found is None else f"another version of doppel, in schema {found!r}"
            raise UserError(f"{where} was written by {by}; this one reads schema {expected} only")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            raise UserError(f"{where}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
