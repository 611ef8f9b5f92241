"""How much the frames of a clip flicker: the mean difference from one frame to the next, before and after a job."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


class Flicker:
    """Takes one frame after another and remembers the last one of each clip; clips may interleave."""

    def __init__(self) -> None:
        self.pairs = 0
        """Neighbouring frames compared."""
        self._sums = np.zeros(2)
        self._last: dict[Hashable, tuple[Pixels8, Pixels8]] = {}

    def add(self, clip: Hashable, before: Pixels8, after: Pixels8) -> None:
        """Takes the next frame of `clip`, before and after: uint8 `[H, W, 3]`.

        Raises `ValueError` where its shape differs from the last one's.
        """
        now = before, after
        last = self._last.get(clip, now)
        for frame, frame_before in zip(now, last, strict=True):
            if frame.shape != frame_before.shape:
                raise ValueError(f"clip {clip}: a frame of shape {frame.shape} follows one of {frame_before.shape}")
        if clip in self._last:
            self._sums += [np.abs(a.astype(np.int16) - b).mean() for a, b in zip(now, last, strict=True)]
            self.pairs += 1
        self._last[clip] = now

    @property
    def inputs(self) -> float | None:
        """The mean |frame_t − frame_{t−1}| of inputs, in grey levels (0 to 255); None where no clip has two frames."""
        return float(self._sums[0]) / self.pairs if self.pairs else None

    @property
    def outputs(self) -> float | None:
        """The same of outputs."""
        return float(self._sums[1]) / self.pairs if self.pairs else None
