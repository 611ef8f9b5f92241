"""The quarantine: samples that were not written, with their original bytes, the reason and the place they came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.media.versioned import Text, Versioned
from pipeline.streams.bounds import Bounds
from pipeline.streams.files import Stored
from pipeline.streams.private import make_private_folder
from pipeline.streams.shards import TarWriter
from pipeline.streams.store import Store
from pipeline.streams.tarstream import Group, read_groups

REASON = "reason.json"
"""The member that holds the reason."""
UNBOUNDED = Bounds(member_bytes=1 << 62, sample_bytes=1 << 62, sample_members=1 << 62, header_bytes=1 << 62)
"""Samples in the quarantine have passed the bounds of their job."""


class Quarantined(Versioned):
    """The member `reason.json` of a sample in the quarantine; see `Rejected`."""

    key: Text
    reason: Text
    kind: Literal["undecodable", "refused", "damaged"]
    """The kind of `Rejected`."""
    origin: Text


class QuarantineWriter:
    """Writes `quarantine/NAME.tar`, which only its owner may open, one sample after another.

    Each is `000000.reason.json` and the members of the sample, numbered in order. Names in the tar are ours, never the
    sample's. Without samples nothing is written.
    """

    def __init__(self, *, store: Store, parts: Path, name: str) -> None:
        self._store, self._parts, self._name = store, parts / "quarantine", name
        self._tar: TarWriter | None = None
        self._count = 0

    def add(self, bad: Rejected) -> None:
        """Writes a sample."""
        if self._tar is None:
            make_private_folder(self._parts)
            self._tar = TarWriter(
                store=self._store, folder="quarantine", parts=self._parts, name=self._name, verbatim_names=True
            )
        why = Quarantined(key=bad.key, reason=bad.reason, kind=bad.kind, origin=bad.origin)
        members = {_safe(extension, j): content for j, (extension, content) in enumerate(bad.members.items())}
        key = f"{self._count:06d}"
        self._tar.add([Sample(key=key, image=why.to_json().encode(), image_ext=REASON, members=members)])
        self._count += 1

    def commit(self) -> dict[str, Stored]:
        """Publishes the tar, if there is one; see `ShardWriter`."""
        return {} if self._tar is None else self._tar.commit()

    def abort(self) -> None:
        """Removes what was written so far."""
        if self._tar is not None:
            self._tar.abort()


def read_quarantine(tar: Path) -> Iterator[tuple[Quarantined, Group]]:
    """Yields the reason and the members of each sample.

    Raises `UserError` for a tar that is damaged or of another version of doppel.
    """
    with open(tar, "rb") as file:
        for number, members, problem in read_groups(file, "first", UNBOUNDED):
            if problem is not None or REASON not in members:
                raise UserError(f"{tar} is damaged: {problem.reason if problem else f'no {number}.{REASON}'}")
            yield Quarantined.from_json(members.pop(REASON), f"{tar}: {number}.{REASON}"), members


def _safe(extension: str, position: int) -> str:
    """The extension, where it is plain; else a name of ours, which no plain one has: it begins with a digit."""
    if re.fullmatch(r"[A-Za-z_-][A-Za-z0-9._-]{0,99}", extension) and extension != REASON:
        return extension
    return f"{position}.{re.sub(r'[^A-Za-z0-9._-]', '_', extension)[:100] or 'member'}"
