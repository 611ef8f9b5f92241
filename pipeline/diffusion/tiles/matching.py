"""Which source tile goes where: costs by matrix products on the device, assignment by scipy (2411.15925)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from pipeline.diffusion.model import Outline
from pipeline.diffusion.tiles.regions import Assembly, Cut, Ints, Tiles, total

Describe = Callable[[Tensor], Tensor]
"""What is compared of tiles: `[…, C, m]`, the values at their positions → `[…, d]`, by squared distance."""

STAY = 1e-4
"""A tile moves only where that gains something: the way across the picture costs as much as a difference of .01 in
every value. Else flat tiles would change places at random."""

PAIRS_AT_ONCE = 2**18
"""Costs in one matrix product, where a single symmetry has no more of them: bounds memory."""


@runtime_checkable
class HasFeatures(Protocol):
    """A model that can say what it sees in an image."""

    def encode(self, pixels: Tensor) -> Tensor: ...
    def features(self, z: Tensor) -> Tensor:
        """What the model sees at each pixel: `z [B, C, H, W]` → F features, `[B, F, H, W]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Finds the assembly of source tiles that is nearest to a picture, each tile used at most `repeats` times."""

    tiles: tuple[Tiles, ...]
    size: tuple[int, int]
    describe: tuple[Describe, ...]
    """What is compared, one function for each group of tiles."""
    see: Callable[[Tensor], Tensor] = lambda pictures: pictures
    """Maps R pictures `[R, C, H, W]` to what is matched of them, `[R, F, H, W]`."""
    repeats: int | Literal["unlimited"] = 1

    def __call__(self, targets: Tensor, sources: Tensor) -> Assembly:
        """Matches `targets [R, C, H, W]` with tiles of `sources [R, S, C, H, W]`, S pictures for each target.

        Kuhn–Munkres in each group of tiles; with "unlimited" repeats the best for each place. Threads over R: scipy
        lets go of the interpreter while it assigns. Raises `ValueError` where the source has too few tiles.
        """
        wanted = self.see(targets).flatten(2)
        found = self.see(sources.flatten(0, 1)).unflatten(0, sources.shape[:2]).transpose(1, 2).flatten(2)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a cost matrix for each thread, no more
            rows = list(pool.map(self._row, wanted, found))
        return Assembly(*(np.stack(part) for part in zip(*rows, strict=True)))

    def _row(self, target: Tensor, source: Tensor) -> Assembly:
        tile, turn, start = [], [], 0
        for group, describe in zip(self.tiles, self.describe, strict=True):
            n = len(group.pixels)
            cost, g = costs(target, source, group, self.size, describe)
            chosen = assign(cost, self.repeats)
            tile.append(chosen // n * total(self.tiles) + start + chosen % n)
            turn.append(g[np.arange(n), chosen])
            start += n
        return Assembly(np.concatenate(tile), np.concatenate(turn))


class Tiling(BaseModel):
    """What operators on tiles have in common."""

    tiles: Cut
    repeats: Annotated[int, Field(ge=1)] | Literal["unlimited"] = 1
    """How often a tile may be used in one image."""
    match: Literal["l2", "gradient", "features"] = "l2"
    """What is compared: values, their differences inside a tile (and its mean), or the model's own features."""

    def matcher(self, model: Outline) -> Matcher:
        """The matcher of pictures in pixels. Raises `ValueError` for tiles that the model can't have."""
        tiles = self.tiles(model.size)
        matcher = Matcher(tiles=tiles, size=model.size, describe=(values,) * len(tiles), repeats=self.repeats)
        if self.match == "gradient":
            return replace(matcher, describe=tuple(gradient(group, model.size[1]) for group in tiles))
        if self.match == "l2":
            return matcher
        if model.space == "latent" or not isinstance(model, HasFeatures):
            raise ValueError("match features: the model gives none; l2 and gradient need none")
        if any(len(group.symmetries) > 1 for group in tiles):
            raise ValueError("match features: a feature does not turn with its tile, so no flips, turns or rings")
        return replace(matcher, describe=(means,), see=lambda pictures: model.features(model.encode(pictures)))


def values(tile: Tensor) -> Tensor:
    """All values of the tiles, `[…, C, m]` → `[…, C·m]`."""
    return tile.flatten(-2)


def means(tile: Tensor) -> Tensor:
    """The mean of each channel of the tiles, `[…, C, m]` → `[…, C]`."""
    return tile.mean(-1)


def gradient(group: Tiles, width: int) -> Describe:
    """Compares differences between neighbours inside the tile, and its mean: else flat tiles would go anywhere."""
    m = group.pixels.shape[1]
    place = {int(pixel): position for position, pixel in enumerate(group.pixels[0])}
    right = [(p, place[q + 1]) for q, p in place.items() if (q + 1) % width and q + 1 in place]
    below = [(p, place[q + width]) for q, p in place.items() if q + width in place]
    here, there = torch.tensor([*right, *below], dtype=torch.int64).reshape(-1, 2).T

    def describe(tile: Tensor) -> Tensor:
        slopes = tile[..., there.to(tile.device)] - tile[..., here.to(tile.device)]
        return torch.cat([slopes.flatten(-2), m**0.5 * tile.mean(-1)], -1)

    return describe


def costs(
    target: Tensor, source: Tensor, group: Tiles, size: tuple[int, int], describe: Describe
) -> tuple[NDArray[np.float64], Ints]:
    """The least of ‖tile_a − g·tile_b‖² over all symmetries g for every pair of tiles, and that g: both `[n, S·n]`.

    `target [C, H·W]`, `source [C, S·H·W]`. ‖a‖² + ‖b‖² − 2ab is one matrix product, for as many g at once as fit.
    """
    pixels, symmetries = (torch.from_numpy(table).to(target.device) for table in (group.pixels, group.symmetries))
    a = describe(target[:, pixels].transpose(0, 1))  # [n, d]
    pool = source.unflatten(1, (-1, target.shape[1]))[:, :, pixels].flatten(1, 2).transpose(0, 1)  # [S·n, C, m]
    at_once = max(1, PAIRS_AT_ONCE // (len(a) * len(pool)))
    best, turn = torch.full((len(a), len(pool)), torch.inf).to(a), torch.zeros(len(a), len(pool)).to(pixels)
    for first in range(0, len(symmetries), at_once):
        b = describe(pool[..., symmetries[first : first + at_once]].transpose(1, 2))  # [S·n, g, d]
        product = (a @ b.flatten(0, 1).T).unflatten(1, b.shape[:2])
        least, g = (a.square().sum(-1)[:, None, None] + b.square().sum(-1) - 2 * product).min(-1)
        better = least < best
        best, turn = torch.where(better, least, best), torch.where(better, g + first, turn)
    corner = torch.stack([pixels[:, 0] // size[1], pixels[:, 0] % size[1]], -1).to(a)
    way = torch.cdist(corner, corner).square() / (size[0] ** 2 + size[1] ** 2)
    best = best + STAY * a.shape[1] * way.repeat(1, len(pool) // len(a))
    return best.double().cpu().numpy(), turn.cpu().numpy()


def assign(cost: NDArray[np.float64], repeats: int | Literal["unlimited"]) -> Ints:
    """The source tile (column) for each place (row), together the cheapest."""
    from scipy.optimize import linear_sum_assignment

    places, there = cost.shape
    if repeats == "unlimited":
        return cost.argmin(1)
    if places > there * repeats:
        raise ValueError(f"{places} target tiles, and only {there} source tiles × {repeats}: allow more repeats")
    cost = cost - cost.min(1, keepdims=True)  # changes no assignment, and scipy finishes sooner
    if places == there * repeats:
        cost -= cost.min(0)
    return linear_sum_assignment(np.tile(cost, repeats))[1] % there
