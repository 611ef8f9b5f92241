"""Samples that were not written: their original bytes, with the reason and the place they came from."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.media.records import Rejected, Sample
from pipeline.streams.shards import TarWriter


def write_quarantine(rejected: Sequence[Rejected], *, folder: Path, parts: Path, name: str) -> dict[str, str]:
    """`folder/NAME.tar`: `000000.reason.json` {key, reason, kind, origin} and the members, numbered in order.

    Names in the tar are ours, never the sample's. Returns {file name: sha256}; nothing is written for no samples, and
    what an earlier run of the shard left is removed.
    """
    if not rejected:
        (folder / f"{name}.tar").unlink(missing_ok=True)
        return {}
    (parts / "quarantine").mkdir(exist_ok=True)
    writer = TarWriter(data=folder, parts=parts / "quarantine", name=name, verbatim_names=True)
    for i, bad in enumerate(rejected):
        why = {"key": bad.key, "reason": bad.reason, "kind": bad.kind, "origin": bad.origin}
        members = {_safe(extension, j): content for j, (extension, content) in enumerate(bad.members.items())}
        reason = json.dumps(why, ensure_ascii=True).encode()
        writer.add(Sample(key=f"{i:06d}", image=reason, image_ext="reason.json", members=members))
    return writer.commit()


def _safe(extension: str, position: int) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", extension)
    return plain if plain == extension and plain != "reason.json" else f"{position}.{plain}"
