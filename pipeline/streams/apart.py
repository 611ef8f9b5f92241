"""Input and output must lie apart: what a job writes would be read again, and what it removes might be its source."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.streams.contract import InputStream


def check_apart(root: Path, stream: InputStream) -> None:
    """Raises `UserError` where an input lies in the job's folder `root`, or would find what the job writes there."""
    home = real(root)
    written = [home / "data" / "class" / "image", *(home / "data" / f"{shard.name}.tar" for shard in stream.shards)]
    for pattern in dict.fromkeys(stream.places):
        place = Path(os.path.expanduser(pattern)).absolute()
        fixed, below = real(Path(*place.parts[: _magic(place)])), place.parts[_magic(place) :]
        if fixed.is_relative_to(home):
            raise UserError(f"output.path: the input {pattern!r} lies in {root}; name a folder apart from the input")
        if home.is_relative_to(fixed) and any(_matches(path.relative_to(fixed).parts, below) for path in written):
            raise UserError(
                f"output.path: the input {pattern!r} would find what is written to {root}; name a folder apart "
                "from the input"
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
