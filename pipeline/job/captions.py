"""Each sample's own prompt: a template that is filled in from the sample's label and members."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from pipeline.diffusion.model import Outline
from pipeline.errors import UserError
from pipeline.media.records import UNREAD, Sample
from pipeline.section import Section

if TYPE_CHECKING:
    from pipeline.operators import Operator

PLACE = re.compile(r"\{([^{}]+)\}")
"""A place in a template, in braces."""


class CaptionConfig(Section):
    """Each sample's own prompt, for models that take one. A text in place of the section is its template."""

    template: str = Field(min_length=1)
    """A text such as `a photo of a {label}`. `{label}` is the name of the class, `{txt}` a member of the sample,
    `{json:caption}` a field of a JSON member, and `{json:a.caption}` one in its field `a`. A text that is itself a list
    in JSON is that list."""
    on_missing: Literal["error", "default", "skip"] = "error"
    """What happens where a sample lacks something the template names: `error` ends the job, `default` takes the
    default, `skip` puts the sample in quarantine."""
    default: str | None = None
    """The prompt that `on_missing: default` takes."""
    pick: Literal["first", "random", "each"] = "first"
    """Which text of a list is taken: the `first`; one at `random`, another one for each copy, drawn from the salt and
    the sample's key; or with `each`, the first copy takes the first, the second the second, and so on, from the front
    again where there are more copies than texts."""

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


UNNAMED = (
    "{label} is the name of a class, and the data set declares no names: give input.label_names: [NAME, …], "
    "each at the place of its number"
)
"""Why `{label}` cannot be filled in for any sample."""
FIRST_OF_LIST = "a caption is a list of texts, and the first is taken (caption.pick: first, random or each)"
"""The note on a sample whose caption is a list, where the recipe does not say which text to take."""
LEFT_OVER = "a caption is a list of more texts than there are copies, and the last are not used (operator.copies)"
"""The note on a sample some of whose texts no copy takes, although each shall be taken."""


class Captions(NamedTuple):
    """The prompts of a sample."""

    texts: tuple[str, ...]
    """One for each copy."""
    notes: tuple[str, ...] = ()
    """What is to be said of how they were chosen."""


def check_names(config: CaptionConfig, names: Sequence[str] | None) -> None:
    """Raises `UserError` where the template wants names of classes, and the data set has none."""
    if "label" in PLACE.findall(config.template) and not names:
        raise UserError(f"caption: {UNNAMED}")


def read_captions(
    config: CaptionConfig, sample: Sample, names: Sequence[str] | None, draws: Sequence[float] = (0.0,)
) -> Captions:
    """Fills in the template; `names` are those of the classes, by label. There is a draw in [0, 1) for each copy, which
    chooses from a list of texts at random; of several lists, it chooses at the same place.

    Raises `NoCaption` where that is not possible.
    """
    try:
        texts = {place: _texts(place, sample, names) for place in PLACE.findall(config.template)}
    except NoCaption:
        if config.default is None:
            raise
        return Captions((config.default,) * len(draws))
    notes = []
    most = max((len(found) for found in texts.values()), default=1)
    if most > 1 and "pick" not in config.model_fields_set:
        notes.append(FIRST_OF_LIST)
    if most > len(draws) and config.pick == "each":
        notes.append(LEFT_OVER)

    def filled(copy: int, draw: float) -> str:
        def chosen(place: re.Match[str]) -> str:
            found = texts[place[1]]
            at = {"first": 0, "random": min(int(draw * len(found)), len(found) - 1), "each": copy % len(found)}
            return found[at[config.pick]]

        return PLACE.sub(chosen, config.template)

    return Captions(tuple(filled(copy, draw) for copy, draw in enumerate(draws)), tuple(notes))


def _texts(place: str, sample: Sample, names: Sequence[str] | None) -> tuple[str, ...]:
    """What a place of a template stands for: one text, or those of a list."""
    if place == "label":
        if not names:
            raise NoCaption(UNNAMED)
        if sample.unread is not None:
            raise NoCaption(f"{UNREAD[sample.unread.kind]}, and {{label}} is the name of one class")
        if sample.label is None or sample.label < 0:
            raise NoCaption("the sample has no label")
        if sample.label >= len(names):
            raise NoCaption(f"label {sample.label} has no name (there are {len(names)})")
        return (names[sample.label],)
    member, _, key = place.partition(":")
    if member not in sample.members:
        raise NoCaption(f"the sample has no member {member!r}")
    try:
        found: Any = sample.members[member].decode()
        if key or member.rpartition(".")[2].lower() == "json":
            found = json.loads(found)
        found = _opened(_field(found, key) if key else found)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise NoCaption(f"member {member!r} cannot be read") from None
    texts = found if isinstance(found, list) else [found]
    if not all(isinstance(text, str | int) and str(text).strip() for text in texts) or not texts:
        raise NoCaption(f"{place} is {'missing' if found is None else 'empty, or no text and no list of texts'}")
    return tuple(str(text).strip() for text in texts)


def _field(content: Any, key: str) -> Any:
    """A field of an object, or `a.b` of the object that is its field `a`; None where there is none.

    Raises `AttributeError` where `content` is no object.
    """
    first, _, rest = key.partition(".")
    inner = content.get(first) if rest and key not in content else None
    return _field(inner, rest) if isinstance(inner, dict) else content.get(key)


def _opened(found: Any) -> Any:
    """The list or object that a text is in JSON; all else as it is."""
    if not isinstance(found, str) or not found.lstrip().startswith(("[", "{")):
        return found
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        return found


def wants(operator: Operator | None, model: Outline, kind: Literal["class", "text"], condition: str = "own") -> bool:
    """Whether the operator conditions the model on the samples' own labels (`kind` class) or captions (`kind` text).

    `condition` is `own`, or `edited` for the caption of what a sample is to become.
    """
    return model.conditioning == kind and operator is not None and condition in operator.conditions_used()
