"""Why samples lie in quarantine, summed up: reasons that differ only in names and numbers count as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

OF_THE_GATE = ("recognisable", "undecided")
"""Reasons that begin with one of these are the gate's: sentences without names and keys. For others only the kind is
published."""
KEPT = 20
"""Different reasons that a record keeps."""
QUOTED = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)""")
"""What a reason quotes: a key, a name, a value."""
PARTICULAR = re.compile(r"""(?<!\w)['"]|[(:]""")
"""What the particulars of a reason begin with."""


def gist(reason: str, *, secret: bool) -> str:
    """A reason without what it quotes; with `secret`, without all that may be particular to its sample.

    The gate's own sentences are never particular to one, and stay whole.
    """
    if reason.startswith(OF_THE_GATE):
        return reason
    return PARTICULAR.split(reason, maxsplit=1)[0].strip() if secret else QUOTED.sub("…", reason)


def tally(reasons: Iterable[tuple[str, int]]) -> dict[str, int]:
    """How often each reason comes, the commonest first, told by the first that differs from others in numbers only."""
    counts, told = Counter[str](), dict[str, str]()
    for reason, count in reasons:
        alike = re.sub(r"\d+", "0", reason)
        told.setdefault(alike, reason)
        counts[alike] += count
    return {told[alike]: count for alike, count in counts.most_common(KEPT)}


def commonest(reasons: Mapping[str, int]) -> str:
    """The commonest reason with its count, as the end of a sentence; empty where there is none."""
    found = max(reasons.items(), key=lambda item: item[1], default=None)
    return "" if found is None else f"; {found[1]} of these {sum(reasons.values())}: {found[0]}"
