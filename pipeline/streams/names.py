"""Names in tars and folders: where a key ends, which names are unsafe, and how dots and slashes are escaped."""

from __future__ import annotations

import hashlib
import re
from itertools import accumulate, takewhile
from typing import Literal

Split = Literal["auto", "first", "last"]
"""The rule for the end of a name's key; see `WebDatasetInput.split`."""
LONGEST_COMPONENT = 200
"""Bytes of a name of ours, at most: file systems take 255, and extensions follow."""
UNSAFE = re.compile(r'[%/\\\x00-\x1f\x7f<>:"|?*]')
"""A character that has no place in the name of a file."""
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *", re.IGNORECASE)
"""A name that Windows takes for a device, whatever the extension."""
JUNK = re.compile(r"(^|/)(\._[^/]*|__MACOSX(/.*)?|\.DS_Store|Thumbs\.db)$", re.DOTALL)
"""Names of what macOS and Windows put into archives and folders beside the user's own files."""
ESCAPE = re.compile(r"%u([0-9A-F]{4})|%([0-9A-F]{2})")
"""A character that `safe_component` has encoded."""


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


def is_junk(name: str) -> bool:
    """Whether a file is none of the user's: `._*`, `.DS_Store`, `Thumbs.db`, and all below `__MACOSX/`."""
    return JUNK.search(name) is not None


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


def safe_component(text: str) -> str:
    """The text as one name of a file or a folder, which stays where it is put; `text_of` is the inverse.

    No two texts have one name. Percent-encoded are `%`, separators, control characters, what Windows reserves (`CON`,
    `:`, a dot or a space at the end), a dot at the beginning, and bytes that are no UTF-8 (lone surrogates, PEP 383). A
    name of more than `LONGEST_COMPONENT` bytes is cut, and ends in `%~` and a hash of the whole: that one has no
    inverse.
    """
    pieces = [_encoded(c) if UNSAFE.fullmatch(c) or "\ud800" <= c <= "\udfff" else c for c in text]
    if not pieces:
        return "%"
    if text[0] == "." or RESERVED.fullmatch(text.partition(".")[0]):
        pieces[0] = _encoded(text[0])
    if text[-1] in ". ":
        pieces[-1] = _encoded(text[-1])
    name = "".join(pieces)
    if len(name.encode()) <= LONGEST_COMPONENT:
        return name
    digest = hashlib.sha256(text.encode("utf-16", "surrogatepass")).hexdigest()[:32]
    room = LONGEST_COMPONENT - len(digest) - 2
    kept = list(takewhile(lambda size: size <= room, accumulate(len(piece.encode()) for piece in pieces)))
    return "".join(pieces[: len(kept)]) + f"%~{digest}"


def text_of(component: str) -> str:
    """The inverse of `safe_component`. Raises `ValueError` for a name that it doesn't give, or that it has cut."""
    text = "" if component == "%" else ESCAPE.sub(_decoded, component)
    if safe_component(text) != component:
        raise ValueError(f"{component!r} is the name of no text")
    return text


def _encoded(character: str) -> str:
    code = ord(character)
    if code < 0x80:
        return f"%{code:02X}"
    return f"%{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"%u{code:04X}"


def _decoded(escape: re.Match[str]) -> str:
    if escape[1]:
        return chr(int(escape[1], 16))
    byte = int(escape[2], 16)
    return chr(byte if byte < 0x80 else 0xDC00 + byte)
