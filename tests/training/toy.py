"""The toy data set that the tests train on: two colours, 8×8."""

from __future__ import annotations

from collections.abc import Callable

from training.denoiser.config import DenoiserConfig

SIDE, EACH = 8, 8
COLOURS = {"blue": (20, 40, 230), "red": (220, 30, 10)}
Configure = Callable[..., DenoiserConfig]
"""`configure(output="out", **{"optimizer.lr": 0.1})`: a training of 6 steps, with changes."""
