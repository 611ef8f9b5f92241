"""The quarantine: samples that were not written, with their original bytes, the reason and the place they came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pipeline.media.records import Rejected, Sample
from pipeline.media.versioned import Text, Versioned
from pipeline.streams.files import Stored
from pipeline.streams.shards import TarWriter
from pipeline.streams.tarstream import Group, read_groups

REASON = "reason.json"
"""The member that holds the reason."""


class Quarantined(Versioned):
    """The member `reason.json` of a sample in the quarantine; see `Rejected`."""

    key: Text
    reason: Text
    kind: Literal["undecodable", "refused", "damaged"]
    """The kind of `Rejected`."""
    origin: Text


def write_quarantine(rejected: Sequence[Rejected], *, folder: Path, parts: Path, name: str) -> dict[str, Stored]:
    """Writes `folder/NAME.tar`: `000000.reason.json` and the members of the sample, numbered in order.

    Names in the tar are ours, never the sample's. Returns what was stored, by its path below the job's folder. Without
    samples nothing is written, and what an earlier run of the shard left is removed.
    """
    if not rejected:
        (folder / f"{name}.tar").unlink(missing_ok=True)
        return {}
    (parts / "quarantine").mkdir(exist_ok=True)
    writer = TarWriter(data=folder, parts=parts / "quarantine", name=name, verbatim_names=True)
    for i, bad in enumerate(rejected):
        why = Quarantined(key=bad.key, reason=bad.reason, kind=bad.kind, origin=bad.origin)
        members = {_safe(extension, j): content for j, (extension, content) in enumerate(bad.members.items())}
        writer.add([Sample(key=f"{i:06d}", image=why.to_json().encode(), image_ext=REASON, members=members)])
    return writer.commit()


def read_quarantine(tar: Path) -> Iterator[tuple[Quarantined, Group]]:
    """Yields the reason and the members of each sample. Raises `UserError` for a tar of another version of doppel."""
    with open(tar, "rb") as file:
        for number, members, _ in read_groups(file, "first"):
            yield Quarantined.from_json(members.pop(REASON), f"{tar}: {number}.{REASON}"), members


def _safe(extension: str, position: int) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", extension)
    return plain if plain == extension and plain != REASON else f"{position}.{plain}"
