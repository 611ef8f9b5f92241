"""Input and output must lie apart: what a job writes would be read again, and what it removes might be its source."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.streams.contract import InputStream
from pipeline.streams.remote import shown


def check_apart(root: str, stream: InputStream) -> None:
    """Raises `UserError` where an input lies in the job's folder `root`, or would find what the job writes there.

    Both are paths of this machine, or URLs of an object store.
    """
    if "://" in root:
        _check_urls(root, stream)
        return
    home = real(root)
    written = [home / "data" / "class" / "image", *(home / "data" / f"{shard.name}.tar" for shard in stream.shards)]
    for pattern in dict.fromkeys(stream.places):
        if "://" in pattern:
            continue
        place = Path(os.path.expanduser(pattern)).absolute()
        fixed, below = real(Path(*place.parts[: _magic(place)])), place.parts[_magic(place) :]
        if fixed.is_relative_to(home):
            raise UserError(f"output.path: the input {pattern!r} lies in {root}; name a folder apart from the input")
        if home.is_relative_to(fixed) and any(_matches(path.relative_to(fixed).parts, below) for path in written):
            raise UserError(
                f"output.path: the input {pattern!r} would find what is written to {root}; name a folder apart "
                "from the input"
            )


def _check_urls(root: str, stream: InputStream) -> None:
    written = [f"{root}/data/{shard.name}.tar" for shard in stream.shards] + [f"{root}/data/class/image"]
    for pattern in dict.fromkeys(stream.places):
        parts = tuple(pattern.split("/"))
        inside = pattern.startswith(f"{root}/")
        wild = any(c in pattern for c in "*?[")
        if inside or (wild and any(_matches(tuple(url.split("/")), parts) for url in written)):
            raise UserError(
                f"output.path: the input {shown(pattern)!r} lies in {shown(root)}, or would find what is written "
                "there; name a folder apart from the input"
            )


def _magic(path: Path) -> int:
    """How many of a path's first parts hold no wildcard."""
    return next((i for i, part in enumerate(path.parts) if any(c in part for c in "*?[")), len(path.parts))


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern, part by part; `**` stands for any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
