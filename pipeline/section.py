"""What recipes are made of: sections with known keys, and numbers that stand in many."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Section):
    """What one command reads: a file says of which kind it is, in code that is known."""

    kind: str


class OneOf(Section):
    """A section with exactly one key; others may stand beside it as null, as where a variant replaces it."""

    @model_validator(mode="after")
    def _exactly_one(self) -> OneOf:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} is allowed")
        return self
