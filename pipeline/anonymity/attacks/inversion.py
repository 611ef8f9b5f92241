"""Undoing an operator: back along its ODE, or by laying tiles back. The result is attacked like the release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.attacks.figures import PermutationFigures
from pipeline.anonymity.attacks.photos import Indices, Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.inversion import Inversion
    from pipeline.diffusion.model import Model, Rows
    from pipeline.media.records import Pixels8

ENOUGH_PAIRS = 20
"""With this many known pairs, a permutation that all images share is usually found."""


def invert_ode(
    model: Model,
    released: Tensor,
    level: float,
    *,
    rows: Rows = None,
    back: tuple[Model, Rows] | None = None,
    inversion: Inversion | None = None,
) -> Tensor:
    """Takes released images up the probability-flow ODE to `level`, a fraction of T, and back to images.

    `released` is `[B, 3, H, W]` in [-1, 1]. A Boomerang with a deterministic reverse process leads back exactly to its
    noised source x = x0 + σ·ε. The best guess of x0 is then the posterior mean D(x, σ). With `back`, the model and
    conditions of the source, the image comes down the ODE again. This is the inverse of DDIB (2203.08382), whose target
    model and conditions are `model` and `rows`.
    """
    import torch

    from pipeline.diffusion.exactness import exact
    from pipeline.diffusion.inversion import Inversion

    walk = inversion or Inversion()
    with torch.no_grad(), exact():
        z = model.encode(released)
        fraction = torch.full((len(z),), level, dtype=torch.float64, device=z.device)
        top = model.levels.sigma(fraction)
        if back is not None:
            top = top.minimum(back[0].levels.sigma(torch.ones_like(fraction)))
        up = walk.ladder(model.levels, top, walk.lift).flip(1)
        noisy = walk.walk(model.denoiser(rows), walk.lifted(z, top), up)
        if back is None:
            return model.decode(model.denoiser(rows)(noisy, top))
        source, own = back
        return source.decode(walk.walk(source.denoiser(own), noisy, walk.ladder(source.levels, top)))


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """Square tiles that lie elsewhere, the same way in every image."""

    tile: int
    """Side in pixels; divides both sides of the images."""
    order: Indices
    """`[n]`: the place in the source, row by row, of the tile that lies at each place of the released image."""

    def undo(self, image: Pixels8) -> Pixels8:
        """Lays the tiles of a released image uint8 `[H, W, 3]` back to their places in the source."""
        return laid(tiles_of(image, self.tile)[np.argsort(self.order)], image.shape[0], image.shape[1])

    @property
    def moved(self) -> float:
        """The fraction of the tiles, in [0, 1], that do not lie where they were."""
        return float(np.mean(self.order != np.arange(len(self.order))))


def recover_permutation(pairs: Sequence[tuple[Pixels8, Pixels8]], tile: int) -> Permutation:
    """Finds the permutation behind known pairs of (source, released) images.

    Tiles are matched with the Hungarian algorithm (Kuhn 1955, Munkres 1957) by the mean and standard deviation of each
    channel. Raises `ValueError` where there are no pairs, or tiles do not divide the images.
    """
    from scipy.optimize import linear_sum_assignment

    if not pairs:
        raise ValueError("pairs: at least one known pair is needed")
    source, released = (np.concatenate([statistics(tiles_of(p[side], tile)) for p in pairs], 1) for side in (0, 1))
    centre = source.mean(axis=0)
    a, b = released - centre, source - centre
    return Permutation(tile=tile, order=linear_sum_assignment(-(a @ b.T))[1].astype(np.int64))


def best_permutation(pairs: Sequence[tuple[Pixels8, Pixels8]]) -> tuple[Permutation | None, PermutationFigures]:
    """Finds the tile side, from 4 px to half the image, whose permutation best restores released images.

    Permutations are found on half of the pairs and tested on the other half. Returns the best one and its figures:
    `before` and `after` are mean correlations of released and of restored images with their sources. The permutation is
    None where none clearly brings the images closer to their sources.
    """
    known, held_out = pairs[::2], pairs[1::2]
    if not held_out:
        return None, PermutationFigures(pairs=len(pairs), reason="two known pairs are needed")
    height, width = pairs[0][0].shape[:2]
    sides = [t for t in (128, 64, 32, 16, 8, 4) if height % t == 0 == width % t and 2 * t <= min(height, width)]
    before = np.array([correlation(released, source) for source, released in held_out])
    best, after = None, before
    for side in sides:
        found = recover_permutation(known, side)
        reached = np.array([correlation(found.undo(released), source) for source, released in held_out])
        if _clearly_more(reached, after):
            best, after = found, reached
    return best, PermutationFigures(
        pairs=len(known), before=float(before.mean()), after=float(after.mean()),
        tile=best.tile if best else None, moved=best.moved if best else 0.0,
    )  # fmt: skip


def _clearly_more(reached: NDArray[np.float64], before: NDArray[np.float64]) -> bool:
    """By three standard errors of the mean of the paired differences, and more than .01."""
    gain = reached - before
    return bool(gain.mean() > max(3 * gain.std() / len(gain) ** 0.5, 0.01))


def tiles_of(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cuts an image `[H, W, 3]` into tiles `[n, side, side, 3]`, row by row.

    Raises `ValueError` where they do not divide it.
    """
    height, width = image.shape[:2]
    if height % side or width % side:
        raise ValueError(f"tiles of {side} pixels do not divide {height} × {width}")
    grid = image.reshape(height // side, side, width // side, side, 3)
    return grid.swapaxes(1, 2).reshape(-1, side, side, 3)


def laid(tiles: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Lays tiles `[n, side, side, 3]` out as an image `[H, W, 3]`, row by row; the inverse of `tiles_of`."""
    side = tiles.shape[1]
    grid = tiles.reshape(height // side, width // side, side, side, 3)
    return grid.swapaxes(1, 2).reshape(height, width, 3)


def statistics(tiles: NDArray[np.uint8]) -> Vectors:
    """The mean and standard deviation of each channel of tiles `[n, s, s, 3]`: float32 `[n, 6]`, with white as 1."""
    values = tiles.astype(np.float32) / 255
    return np.concatenate([values.mean(axis=(1, 2)), values.std(axis=(1, 2))], axis=1)


def correlation(a: Pixels8, b: Pixels8) -> float:
    """Pearson's correlation of two images over all pixels and channels, in [-1, 1]; 0 where one of them is flat."""
    x, y = (image.astype(np.float64).ravel() - image.mean() for image in (a, b))
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else 0.0
