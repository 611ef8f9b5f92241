"""What a model's card says about its licence. A hint for people, no legal advice: the licence itself decides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

UNKNOWN = "unknown"
LARGEST_CARD = 1 << 20
"""How many bytes of a card are read; the front matter comes first."""

NONCOMMERCIAL: tuple[tuple[str, str], ...] = (
    (r"(?<![a-z0-9])nc(?![a-z])", "the Creative Commons element and Stability AI's short form: cc-by-nc-4.0, sai-nc-…"),
    (r"non-?commercial", "said in full: flux-1-dev-non-commercial-license, fair-noncommercial-research-license"),
    (r"research(-use|-purposes?)?-only", "said in full, which leaves commerce out"),
    (r"^deepfloyd-if-license", "its section 1a grants use 'solely for your non-commercial research purposes'"),
)
"""Patterns over a lower-case name with hyphens for spaces and underscores, each with the reason why it counts."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """What a card states of the licence of a model's weights."""

    name: str = UNKNOWN
    """The name as the card states it, several joined by commas; `license_name` where `license` is `other`."""
    link: str | None = None
    noncommercial: bool = False
    """Whether any of the names forbids commercial use; False where nothing is known."""


def read_licence(folder: Path) -> Licence:
    """Reads `license`, `license_name` and `license_link` from the front matter of `folder/README.md`.

    A card that is missing, damaged or silent gives the unknown licence; nothing is raised.
    """
    card = _front_matter(folder / "README.md")
    named, stated = _texts(card.get("license_name")), _texts(card.get("license"))
    names = [name for name in stated if name != "other"] + named or stated
    links = _texts(card.get("license_link"))
    return Licence(
        name=", ".join(names) or UNKNOWN,
        link=links[0] if links else None,
        noncommercial=any(_is_noncommercial(name) for name in names),
    )


def _is_noncommercial(name: str) -> bool:
    plain = re.sub(r"[\s_]+", "-", name.lower())
    return any(re.search(pattern, plain) for pattern, _ in NONCOMMERCIAL)


def _front_matter(file: Path) -> dict[str, Any]:
    """The mapping between the first two lines `---`; empty where there is none."""
    try:
        with open(file, "rb") as handle:
            text = handle.read(LARGEST_CARD).decode("utf-8-sig", errors="replace")
    except OSError:
        return {}
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.DOTALL | re.MULTILINE)
    if found is None:
        return {}
    try:
        content = yaml.safe_load(found[1])
    except Exception:  # not YAMLError alone: safe_load lets errors of int() and date() through, and recursion
        return {}
    return content if isinstance(content, dict) else {}


def _texts(value: Any) -> list[str]:
    """Text or a list of texts → the ones that are not empty; everything else is none."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]
