"""Whether a folder lies on a file system that several runs can share: one where renames and hard links are atomic."""

from __future__ import annotations

import os
import re
from pathlib import Path
from uuid import uuid4

MOUNTS = Path("/proc/mounts")
"""The file systems of this machine, as Linux tells of them."""
OVER_OBJECTS = frozenset(
    {"s3fs", "gcsfuse", "goofys", "geesefs", "rclone", "blobfuse", "blobfuse2", "mountpoint-s3", "riofs", "ossfs"}
)
"""Object stores that are mounted as folders. A rename copies and deletes there, and nothing is put exclusively."""
ESCAPED = re.compile(r"\\([0-7]{3})")


def why_not_shared(folder: Path) -> str | None:
    """Why no several runs can share a folder, as a part of a sentence; None where they can.

    The kind of its file system is looked up, and a rename and an exclusive hard link are tried in it.
    """
    if (name := over_objects(folder)) is not None:
        return f"it is an object store mounted with {name}, which renames nothing in one step; name it by its URL"
    return _tried(folder)


def over_objects(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Which of `OVER_OBJECTS` a folder is mounted with; None for other file systems, and where nobody can tell."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, found = os.path.realpath(folder), ("", "", "")
    for source, at, kind, *_ in (line.split(" ") for line in lines if line.count(" ") >= 2):
        at = ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), at)
        if len(at) >= len(found[1]) and Path(place).is_relative_to(at):
            found = source, at, kind  # of two at one place, the later one is seen
    source, _, kind = found
    if not kind.startswith("fuse"):
        return None
    return next((name for name in (kind.partition(".")[2], source.partition("#")[0]) if name in OVER_OBJECTS), None)


def _tried(folder: Path) -> str | None:
    one, other, linked = (folder / uuid4().hex for _ in range(3))
    try:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
        os.replace(one, other)
        if other.read_bytes() != b"one" or one.exists():
            return "a file that is renamed there does not take the place of another"
        os.link(other, linked)
        try:
            os.link(other, linked)
        except FileExistsError:
            return None
        return "a hard link takes the place of another file there"
    except OSError as error:
        return f"its file system has no atomic renames and hard links ({error.strerror})"
    finally:
        for file in (one, other, linked):
            file.unlink(missing_ok=True)
