"""What recipes are made of: sections with known keys, and a type of number that many of them have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
