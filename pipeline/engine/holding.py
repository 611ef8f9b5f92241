"""How many bytes the rows of a job hold, so that what waits between its stages is bounded by bytes and not by count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.media.records import Batch, Rejected, Row


def held_at_all(rows: Iterable[Row], rejected: Iterable[Rejected]) -> int:
    """Bytes of some rows and rejected samples, with the pixels."""
    rows = list(rows)
    pixels = sum(row.image.nbytes + sum(guide.nbytes for guide in row.guides) for row in rows)
    return pixels + held_encoded(rows, rejected)


def held_encoded(rows: Iterable[Row], rejected: Iterable[Rejected]) -> int:
    """Bytes of some rows and rejected samples as they came; those of a clip count once."""
    clips = sum(len(row.sample.image) + _total(row.sample.members) for row in rows if row.index == 0)
    return clips + sum(_total(bad.members) for bad in rejected)


def held_in(batch: Batch) -> int:
    """Bytes of a batch."""
    return held_at_all(batch.rows, batch.rejected)


def _total(members: Mapping[str, bytes]) -> int:
    return sum(map(len, members.values()))
