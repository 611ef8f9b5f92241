"""What recipes are made of: sections with known keys, and the types of values that many of them have."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import UserError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://")
"""What a URL begins with, also one that has lost a slash to path arithmetic."""


NO_TEXT = re.compile("[\\x00-\\x1f\\x7f\\ud800-\\udfff]")
"""Control characters, and what Python makes of bytes that are not UTF-8."""


def local_path(place: str) -> str:
    """A place on this machine, with `~` expanded. Raises `ValueError` for a URL and for what can be no path."""
    if URL.match(place):
        raise ValueError("a place on this machine is expected, not a URL")
    if not place or NO_TEXT.search(place):
        raise ValueError("a path is expected, not empty, without control characters and bytes that are no text")
    expanded = os.path.expanduser(place)
    if expanded.startswith("~"):
        raise ValueError(f"nobody's home is known as {place.partition('/')[0]}; write ./~ for a file of that name")
    return expanded


def local_option(place: str | os.PathLike[str], option: str) -> Path:
    """A place on this machine that no recipe names. Raises `UserError`, naming the option, as `local_path` does."""
    try:
        return Path(local_path(os.fspath(place)))
    except ValueError as error:
        raise UserError(f"{option}: {error}, found {os.fspath(place)!r}") from None


LocalPath = Annotated[str, AfterValidator(local_path)]
"""A file or folder on this machine that is read or written; see `local_path`."""


def place(value: str) -> str:
    """A folder on this machine (see `local_path`), or the URL of one in an object store, without a slash at its end.

    Raises `ValueError` for a URL that names no bucket, or holds credentials, a query or what can be no text.
    """
    if not URL.match(value):
        return local_path(value)
    scheme, found, rest = value.partition("://")
    if scheme.lower() in ("file", "local"):
        raise ValueError(f"a folder on this machine is named by its path, without {scheme}://")
    bucket, *folders = rest.rstrip("/").split("/")
    if not found or not bucket or "::" in value or NO_TEXT.search(value) or {"", ".", ".."} & set(folders):
        raise ValueError("a folder or a URL such as s3://bucket/folder is expected")
    if "@" in bucket:
        raise ValueError("credentials in a URL are refused: they belong into the environment, not into a recipe")
    if {"?", "#"} & set(rest):
        raise ValueError("a URL with a query is expected nowhere but in an input")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


Place = Annotated[str, AfterValidator(place)]
"""A folder that is written, on this machine or in an object store; see `place`."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Section):
    """Everything that one command reads from a file."""

    kind: str
    """The kind of the recipe, by which a command knows its own."""


class OneOf(Section):
    """A section with exactly one key; others may stand beside it as null, as where a variant replaces it."""

    @model_validator(mode="after")
    def _exactly_one(self) -> OneOf:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} is allowed")
        return self
