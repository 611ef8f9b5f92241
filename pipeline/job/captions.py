"""Each sample's own prompt: a template that is filled in from the sample's label and members."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pipeline.diffusion.model import Outline
from pipeline.media.records import Sample
from pipeline.section import Section

if TYPE_CHECKING:
    from pipeline.operators import Operator

PLACE = re.compile(r"\{([^{}]+)\}")
"""A place in a template, in braces."""


class CaptionConfig(Section):
    """Each sample's own prompt, for models that take one. A text in place of the section is its template."""

    template: str = Field(min_length=1)
    """A text such as `a photo of a {label}`. `{label}` is the name of the class, `{txt}` a member of the sample, and
    `{json:caption}` a field of a JSON member."""
    on_missing: Literal["error", "default", "skip"] = "error"
    """What happens where a sample lacks something the template names: `error` ends the job, `default` takes the
    default, `skip` puts the sample in quarantine."""
    default: str | None = None
    """The prompt that `on_missing: default` takes."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"template": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _default_belongs_to_on_missing(self) -> CaptionConfig:
        if (self.default is not None) != (self.on_missing == "default"):
            raise ValueError("default and on_missing: default belong together")
        return self


class NoCaption(Exception):
    """Raised where a template cannot be filled in; the message says what the sample lacks."""


def read_caption(config: CaptionConfig, sample: Sample, names: Sequence[str] | None) -> str:
    """Fills in the template; `names` are those of the classes, by label.

    Raises `NoCaption` where that is not possible.
    """
    try:
        return PLACE.sub(lambda place: _named(place[1], sample, names), config.template)
    except NoCaption:
        if config.default is None:
            raise
        return config.default


def _named(place: str, sample: Sample, names: Sequence[str] | None) -> str:
    if place == "label":
        if sample.label is None or sample.label < 0:
            raise NoCaption("the sample has no label")
        if names is not None and sample.label >= len(names):
            raise NoCaption(f"label {sample.label} has no name (there are {len(names)})")
        return names[sample.label] if names else str(sample.label)
    member, _, key = place.partition(":")
    if member not in sample.members:
        raise NoCaption(f"the sample has no member {member!r}")
    try:
        text = sample.members[member].decode()
        found = json.loads(text).get(key) if key else text
    except (ValueError, AttributeError):
        raise NoCaption(f"member {member!r} cannot be read") from None
    if not isinstance(found, str | int) or not str(found).strip():
        raise NoCaption(f"{place} is {'empty' if found is not None else 'missing'}")
    return str(found).strip()


def wants(operator: Operator | None, model: Outline, kind: Literal["class", "text"], condition: str = "own") -> bool:
    """Whether the operator conditions the model on the samples' own labels (`kind` class) or captions (`kind` text).

    `condition` is `own`, or `edited` for the caption of what a sample is to become.
    """
    return model.conditioning == kind and operator is not None and condition in operator.conditions_used()
