"""Markdown of the documents of a release: tables and lists whose content cannot break them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~&])")
"""Signs that mean something in Markdown."""


def plain(text: str) -> str:
    """A text on one line, with every sign of Markdown or HTML escaped: whoever wrote it, it stays a text."""
    return SIGNS.sub(r"\\\1", " ".join(text.split()))


def bullets(lines: Iterable[str]) -> str:
    """A list; the lines are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def rows(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    cells = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def table(heads: tuple[str, str], counts: Mapping[str, int]) -> str:
    """A table of counts by name."""
    return rows(heads, ([plain(name), str(count)] for name, count in counts.items())) if counts else "None."
