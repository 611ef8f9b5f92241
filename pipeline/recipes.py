"""Recipes as files: where they lie, of what kind each is, and what it extends.

Their content is a plain mapping here.
"""

from __future__ import annotations

import difflib
import os
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.plain_yaml import parse_yaml, read_yaml_file

SHIPPED = Path(__file__).parent.parent / "datasets_cfg"
"""The folder of shipped recipes, with one folder for each kind, named like it."""
Content = dict[str, Any]
"""What a recipe file holds, before validation."""


class Kind(NamedTuple):
    """What is known of a kind of recipes."""

    command: str
    """The subcommand of `doppel` that takes recipes of this kind."""
    sections: frozenset[str]
    """The sections by which an older recipe, which states no kind, is recognised."""


KINDS = {
    "job": Kind("run", frozenset({"input", "output"})),
    "denoiser": Kind("train-denoiser", frozenset({"budget"})),
    "compare": Kind("compare", frozenset({"arms"})),
    "calibrate": Kind("calibrate", frozenset({"data", "operator"})),
    "filter": Kind("filter", frozenset({"store"})),
    "edits": Kind("edits", frozenset({"input", "edits"})),
    "calibrate-faces": Kind("calibrate-faces", frozenset({"data", "identity"})),
    "audit": Kind("audit", frozenset({"originals", "release"})),
}
"""All kinds of recipes, by their names."""


def shipped() -> dict[str, Path]:
    """The recipes that come with doppel, by name; no two have the same name, in whatever folders they lie."""
    return {path.stem: path for path in sorted(SHIPPED.rglob("*.yaml"))}


def description(recipe: Path) -> str:
    """The first line of a shipped recipe, a comment, which says what it is for."""
    return recipe.read_text().partition("\n")[0].removeprefix("#").strip()


def find_recipe(source: str, beside: Path | None = None) -> Path:
    """The file at the path `source`, which may be relative to the folder `beside`, or the shipped recipe of that name.

    Raises `UserError` where there is neither, with shipped names that are similar.
    """
    path = Path(beside or "", os.path.expanduser(source))
    if path.is_file():
        return path
    names = shipped()
    if source in names:
        return names[source]
    close = difflib.get_close_matches(Path(source).stem, names)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise UserError(f'{source!r} is neither a file nor a shipped recipe{hint}; "doppel recipes" lists those')


def read_recipe(path: Path, kind: str) -> Content:
    """The content of a recipe of a `kind`, laid over the content of the recipe that it extends.

    Raises `UserError` that names the file where it is not YAML, is of another kind, or extends what it can't.
    """
    content = read_yaml(path)
    if (found := kind_of(path, content)) != kind:
        raise UserError(f'{path} is a recipe of kind {found}; it belongs to "doppel {KINDS[found].command}"')
    files, contents = [path], [content]
    while "extends" in contents[-1]:
        files.append(_base(files, contents[-1].pop("extends")))
        contents.append(read_yaml(files[-1]))
        if (found := kind_of(files[-1], contents[-1])) != kind:
            raise UserError(f"{files[-2]}, of kind {kind}, extends {files[-1]}, which is of kind {found}")
    return reduce(merge, reversed(contents))


def _base(files: list[Path], name: Any) -> Path:
    """What the last of `files`, each of which extends the next, extends under that name."""
    if not isinstance(name, str):
        raise UserError(f"{files[-1]}: extends is {name!r}; the name or the path of one recipe is expected")
    try:
        found = find_recipe(name, beside=files[-1].parent)
    except UserError as error:
        raise UserError(f"{files[-1]}: extends: {error}") from None
    if real(found) in map(real, files):
        raise UserError(f"{files[-1]}: extends goes in a circle: {' → '.join(map(str, [*files, found]))}")
    return found


def read_yaml(path: Path) -> Content:
    """The content of a YAML file. Raises `UserError` where it holds no mapping of names."""
    content = read_yaml_file(path) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a mapping of sections is expected, found {type(content).__name__}")
    return content


def kind_of(path: Path, content: Content) -> str:
    """The kind that a recipe states. Raises `UserError` for an unknown kind, and for a recipe that states none."""
    found = content.get("kind")
    if found is None:
        seems = next((name for name, it in reversed(KINDS.items()) if it.sections <= content.keys()), None)
        advice = f'add the line "kind: {seems}"' if seems else f'add a line "kind: …" with one of {", ".join(KINDS)}'
        raise UserError(f"{path}: the recipe does not say of what kind it is, as older ones did not; {advice}")
    if not isinstance(found, str) or found not in KINDS:
        close = difflib.get_close_matches(str(found), KINDS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"{path}: unknown kind {found!r}{hint}; allowed are {', '.join(KINDS)}")
    return found


def merge(base: Content, delta: Content) -> Content:
    """`base` with `delta` over it: mappings are merged key by key, all else is replaced, lists too."""
    both = dict(base)
    for key, value in delta.items():
        below = both.get(key)
        both[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def set_key(content: Content, override: str) -> None:
    """Applies an override `a.b.c=value` to the content in place; the value is read as YAML.

    Raises `UserError` for an override of another form.
    """
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override[:80]!r}: expected the form section.key=value")
    *sections, last = dotted.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise UserError(f"--set {override[:80]!r}: {section!r} is a value, not a section")
    content[last] = parse_yaml(text, f"--set {override[:80]!r}: the value")
