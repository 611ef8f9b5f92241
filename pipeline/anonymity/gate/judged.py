"""What the gate said of the images that passed, counted: how often they went round, and whom else they look like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.media.provenance import GateVerdict


@dataclass
class Judged:
    """Over the images of a shard."""

    attempts: Counter[str] = field(default_factory=Counter)
    """Images by the attempt that passed; 0 is the operator's own level."""
    others_within: Counter[str] = field(default_factory=Counter)
    """Matches with other people, by recogniser."""
    faces: int = 0

    def add(self, found: GateVerdict | None) -> None:
        """Of one image; None where there was no gate."""
        if found is not None:
            self.attempts[str(found.attempt)] += 1
            self.others_within.update(found.others_within)
            self.faces += len(found.distances)

    def facts(self) -> dict[str, Any]:
        return {
            "attempts": dict(sorted(self.attempts.items())), "others_within": dict(self.others_within),
            "faces": self.faces,
        }  # fmt: skip
