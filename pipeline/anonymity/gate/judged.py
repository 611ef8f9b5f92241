"""What the gate said of the images that passed, counted: how often they went round, and whom else they look like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pipeline.media.provenance import GateVerdict
from pipeline.streams.job_records import GateTotals


@dataclass
class Judged:
    """Over the images of a shard."""

    attempts: Counter[int] = field(default_factory=Counter)
    others_within: Counter[str] = field(default_factory=Counter)
    faces: int = 0

    def add(self, found: GateVerdict | None) -> None:
        """Of one image; None where there was no gate."""
        if found is not None:
            self.attempts[found.attempt] += 1
            self.others_within.update(found.others_within)
            self.faces += len(found.distances)

    @property
    def totals(self) -> GateTotals | None:
        """None where the gate let no image pass, or there was none."""
        if not self.attempts:
            return None
        attempts = dict(sorted(self.attempts.items()))
        return GateTotals(attempts=attempts, others_within=dict(self.others_within), faces=self.faces)
