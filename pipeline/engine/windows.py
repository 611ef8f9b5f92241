"""Clips as frames: which of them a model sees together, and when all of a clip are through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.media.records import Batch, Output, Rejected, Result, Row, reject

if TYPE_CHECKING:
    pass


def windows(rows: Iterable[Row], frames: int | None) -> list[list[Row]]:
    """Rows that go through the model together: up to `frames` successive ones of a clip; each alone, if None.

    The last window may go on in rows that are still to come.
    """
    found: list[list[Row]] = []
    for row in rows:
        if frames and found and len(found[-1]) < frames and clip_of(found[-1][0]) == clip_of(row):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def filled(window: Sequence[Row], frames: int | None) -> list[Row]:
    """A window of exactly `frames` rows: the last one stands still."""
    return [*window, *[window[-1]] * ((frames or 1) - len(window))]


def clip_of(row: Row) -> tuple[str, str | None]:
    return row.noise_key, row.sample.key if row.reel else None


@dataclass(frozen=True, kw_only=True)
class Done:
    """What of a batch is through: the samples that end in it."""

    batch: Batch
    outputs: list[list[Output]]
    """Of each output sample all frames; of one that is no clip, one."""
    refused: list[Rejected]
    written: int
    """Samples that came in, and have outputs."""


def whole(batches: Iterable[tuple[Batch, Sequence[Result]]]) -> Iterator[Done]:
    """The outputs of each sample, frames that are clips put together; a clip may span batches.

    Only one is open at a time: its frames follow each other. Where one of them is refused, the clip is, once.
    """
    clip: list[Result] = []
    for batch, results in batches:
        outputs, refused, written = list[list[Output]](), list[Rejected](), 0
        for row, result in zip(batch.rows, results, strict=True):
            clip.append(result)
            if not row.ends:
                continue
            reason = next((_at(i, why, len(clip)) for i, why in enumerate(clip) if isinstance(why, str)), None)
            if reason is None:
                made = [frame for frame in clip if not isinstance(frame, str)]
                outputs += map(list, zip(*made, strict=True))
                written += 1
            else:
                refused.append(reject(row.sample, reason, undecodable=False))
            clip = []
        yield Done(batch=batch, outputs=outputs, refused=refused, written=written)


def _at(index: int, reason: str, frames: int) -> str:
    return f"frame {index}: {reason}" if frames > 1 else reason
