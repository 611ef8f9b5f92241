"""The one grammar of keys: what the outputs of a sample are called, and to which output a key belongs.

A key is KEY[-COPY][-NAME], such as `0007-3-view-1`. The number appears only in jobs that make several copies, and the
name only in further images. So a key can't be read without the shape of its job: `a-0` may be the first copy of `a`, or
the one output of `a-0`. With the shape it can, except in one case: `a-view-1` may be the view of `a`, or the output of
a sample of that name, and one tar may hold both. Then the output's own, empty name is written out: `a-view-1-`. No
other key changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from pydantic import Field, field_validator

from pipeline.media.versioned import Text
from pipeline.section import Section


class Shape(Section):
    """The outputs that a job makes of each sample."""

    copies: int = Field(default=1, ge=1)
    """How many copies it makes."""
    names: tuple[str, ...] = ()
    """Names of the further images of each copy, such as `view-1` and `image-2`."""

    @field_validator("names")
    @classmethod
    def _can_be_told_apart(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("two further images have one name")
        for name in names:
            if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
                raise ValueError(f"{name!r} names no further image: letters, digits and - are allowed, as in view-1")
            if others := [other for other in names if other.endswith(f"-{name}")]:
                raise ValueError(f"a key that ends in -{others[0]} ends in -{name}, too")
        return names

    def keys(self, source: str) -> Iterator[OutputKey]:
        """Yields the keys of all outputs that the job can make of the sample `source`."""
        for copy, name in product(range(self.copies), ("", *self.names)):
            yield OutputKey(source, copy, name)

    def ending(self, text: str) -> str:
        """The name of a further image that `text` ends in; "" where there is none."""
        return next((name for name in self.names if text.endswith(f"-{name}")), "")


@dataclass(frozen=True)
class OutputKey:
    """One output of one sample."""

    source: Text
    """Key of the sample, as its reader gave it."""
    copy: int = 0
    """Number of the copy, from 0."""
    name: str = ""
    """Name of a further image; empty for the output itself."""

    def format(self, shape: Shape) -> str:
        """The key as text, in the output of a job of this shape.

        Raises `ValueError` for an output that it doesn't make.
        """
        if not 0 <= self.copy < shape.copies or self.name not in ("", *shape.names):
            raise ValueError(f"a job of {shape} makes no {self}")
        stem = f"{self.source}-{self.copy}" if shape.copies > 1 else self.source
        written_out = self.name or shape.ending(stem.rstrip("-"))
        return f"{stem}-{self.name}" if written_out else stem

    @classmethod
    def parse(cls, text: str, shape: Shape) -> OutputKey:
        """Reads a key; the inverse of `format`. Raises `ValueError` for a key that no job of this shape gives."""
        name = shape.ending(text)
        if name or (text.endswith("-") and shape.ending(text.rstrip("-"))):
            stem = text[: len(text) - len(name) - 1]
        else:
            stem = text
        if shape.copies == 1:
            return cls(stem, 0, name)
        numbered = re.fullmatch(r"(.*)-(0|[1-9][0-9]*)", stem, re.DOTALL)
        if numbered is None or int(numbered[2]) >= shape.copies:
            raise ValueError(f"{text!r} is not a key of a job of {shape}")
        return cls(numbered[1], int(numbered[2]), name)
