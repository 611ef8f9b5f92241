"""Names in tars and folders: where a key ends, which names are unsafe, and how dots and slashes are escaped."""

from __future__ import annotations

import re
from typing import Literal

Split = Literal["auto", "first", "last"]
"""The rule for the end of a name's key; see `WebDatasetInput.split`."""


def split_name(name: str, rule: Split) -> tuple[str, str]:
    """Splits a member's name into key (with folders) and extension (without its first dot); either may be empty."""
    folder, slash, base = name.rpartition("/")
    stem, *parts = base.split(".")
    if not parts:
        return name, ""
    if rule == "last":
        cut = len(parts) - 1
    elif rule == "first":
        cut = 0
    else:
        cut = len(parts) - 1
        while cut > 0 and re.fullmatch(r"[A-Za-z]\w*", parts[cut - 1]):
            cut -= 1
    return folder + slash + ".".join([stem, *parts[:cut]]), ".".join(parts[cut:])


def unsafe(name: str) -> bool:
    """Whether a name is absolute, leads out of its folder, or holds a drive letter, control characters or `\\`."""
    return (
        name.startswith("/") or ".." in name.split("/") or re.search(r"^[A-Za-z]:|[\\\x00-\x1f\x7f]", name) is not None
    )


def escape_dots(key: str) -> str:
    """Writes the dots in the last part of a path as `%2E`, because readers of webdataset end a key at its first dot."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + base.replace("%", "%25").replace(".", "%2E")


def unescape_dots(key: str) -> str:
    """The inverse of `escape_dots`."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + base.replace("%2E", ".").replace("%25", "%")


def path_component(text: str) -> str:
    """The text as one name of a file or folder that stays where it is put.

    `/`, `\\`, control characters and a leading dot (hidden, or `..`) are percent-encoded.
    """
    return re.sub(r"^\.|^$|[/\\\x00-\x1f\x7f]", lambda m: f"%{ord(m[0] or '%'):02X}", text)
