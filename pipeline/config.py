"""Strict configuration from YAML: a misspelt key is one sentence with the allowed keys, and is never passed over."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import UserError
from pipeline.recipes import Content, find_recipe, read_recipe, set_key
from pipeline.section import Recipe

Config = TypeVar("Config", bound=BaseModel)
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
SECRETS = re.compile(r"""://([^\s'"]*@)?([^\s'"?]*)(\?[^\s'"]*)?""")
"""User and password in a URL, and what stands in its query: neither is ever shown."""


def load_config(recipe: type[AnyRecipe], source: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Reads `source` (a YAML file, or the name of a shipped recipe), applies `a.b=value` overrides, and validates it.

    Raises `UserError` that names the file and the key, also for a file of another kind.
    """
    path = find_recipe(source)
    return configured(recipe, read_recipe(path, recipe.model_fields["kind"].default), overrides, str(path))


def configured(recipe: type[AnyRecipe], content: Content, overrides: Sequence[str], where: str) -> AnyRecipe:
    """Validates `content` with `a.b=value` overrides. Raises `UserError` that names `where` and the key."""
    for override in overrides:
        set_key(content, override)
    return validate(recipe, content, where)


def validate(kind: type[Config], content: dict[str, Any], where: str) -> Config:
    """Makes a configuration of `content`. Raises `UserError` that names `where` and everything that is wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(_sentence(kind, dict(e)) for e in error.errors())) from None


def dump(config: BaseModel) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _sentence(kind: type[BaseModel], error: dict[str, Any]) -> str:
    location = error["loc"]
    if error["type"] == "extra_forbidden":
        path, section = _walk(kind, location[:-1])
        key, allowed = str(location[-1]), list(section.model_fields)
        close = difflib.get_close_matches(key, allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"unknown key {'.'.join([*path, key])!r}{hint}; allowed are {', '.join(allowed)}"
    place = ".".join(_walk(kind, location)[0]) or "the file"
    if error["type"] == "missing":
        return f"{place} is missing"
    found = SECRETS.sub(
        lambda url: f"://{'…@' if url[1] else ''}{url[2]}{'?…' if url[3] else ''}", repr(error["input"])
    )
    return f"{place}: {error['msg'].removeprefix('Value error, ')}, found {found[:80]}"


def _walk(kind: type[BaseModel], location: Sequence[Any]) -> tuple[list[str], type[BaseModel]]:
    """The keys along a location and the section they lead to; a union's tag chooses a section and is no key."""
    path: list[str] = []
    section, choices = kind, list[type[BaseModel]]()
    for part in location:
        tagged = [c for c in choices if part in [field.default for field in c.model_fields.values()]]
        if tagged:
            section, choices = tagged[0], []
            continue
        path.append(str(part))
        if part in section.model_fields:
            choices = _models(section.model_fields[part].annotation)
            section = choices[0] if choices else section
    return path, section


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models(argument)]
