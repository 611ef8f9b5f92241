"""Clips as frames: which frames a model sees together, and when all frames of a clip are through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.media.records import Batch, Output, Rejected, Result, Row, reject

if TYPE_CHECKING:
    pass


def windows(rows: Iterable[Row], frames: int | None) -> list[list[Row]]:
    """Groups rows that go through the model together: up to `frames` successive ones of a clip, or each row alone.

    Each is alone where `frames` is None. The last window may go on in rows that are still to come.
    """
    found: list[list[Row]] = []
    for row in rows:
        if frames and found and len(found[-1]) < frames and clip_of(found[-1][0]) == clip_of(row):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def filled(window: Sequence[Row], frames: int | None) -> list[Row]:
    """The window with its last row repeated, up to exactly `frames` rows."""
    return [*window, *[window[-1]] * ((frames or 1) - len(window))]


def clip_of(row: Row) -> tuple[str, str | None]:
    """What tells the clip of a row from others."""
    return row.noise_key, row.sample.key if row.reel else None


@dataclass(frozen=True, kw_only=True)
class Done:
    """The part of a batch that is through: all samples that end in it."""

    batch: Batch
    outputs: list[list[list[Output]]]
    """The outputs of each sample that was read, as all their frames; one, where the sample is no clip."""
    refused: list[Rejected]
    """Samples that were read, but have no output."""


def whole(batches: Iterable[tuple[Batch, Sequence[Result]]]) -> Iterator[Done]:
    """Yields the outputs of each sample, putting the frames of a clip together; a clip may span batches.

    Only one clip is open at a time, because its frames follow each other. Where one of its frames is refused, the whole
    clip is refused, once.
    """
    clip: list[Result] = []
    for batch, results in batches:
        outputs, refused = list[list[list[Output]]](), list[Rejected]()
        for row, result in zip(batch.rows, results, strict=True):
            clip.append(result)
            if not row.ends:
                continue
            reason = next((_at(i, why, len(clip)) for i, why in enumerate(clip) if isinstance(why, str)), None)
            if reason is None:
                made = [frame for frame in clip if not isinstance(frame, str)]
                outputs.append(list(map(list, zip(*made, strict=True))))
            else:
                refused.append(reject(row.sample, reason, undecodable=False))
            clip = []
        yield Done(batch=batch, outputs=outputs, refused=refused)


def _at(index: int, reason: str, frames: int) -> str:
    return f"frame {index}: {reason}" if frames > 1 else reason
