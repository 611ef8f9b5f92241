"""Which source tile goes where: costs by matrix products on the device, assignment by scipy (2411.15925)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipeline.diffusion.regions import Ints, Tiles, count

Describe = Callable[[Tensor], Tensor]
"""What is compared of tiles: values `[…, C, m]` at their positions → `[…, d]`, by squared distance."""

STAY = 1e-4
"""A tile moves only where that gains something: the way across the picture costs as much as a difference of .01 in
every value. Else flat tiles would change places at random."""


class Assembly(NamedTuple):
    """A picture for each row, made of source tiles: see `pipeline.diffusion.regions.origins`."""

    tile: Ints
    """`[B, n]`"""
    turn: Ints
    """`[B, n]`"""


def match(
    targets: Tensor,
    sources: Tensor,
    tiles: Sequence[Tiles],
    width: int,
    describe: Sequence[Describe],
    repeats: int | Literal["unlimited"] = 1,
) -> Assembly:
    """The assembly of source tiles nearest to each target, each tile used at most `repeats` times.

    `targets [B, C, H·W]`, `sources [B, C, S·H·W]` (S pictures side by side); `describe` for each group of tiles.
    Kuhn–Munkres over the tiles of a group; "unlimited" takes the best for each place. Threads over the batch: scipy
    lets go of the interpreter while it assigns. Raises `ValueError` where the source has too few tiles.
    """

    def row(i: int) -> Assembly:
        parts, start = [], 0
        for group, described in zip(tiles, describe, strict=True):
            n = len(group.pixels)
            cost, turn = costs(targets[i], sources[i], group, width, described)
            chosen = assign(cost, repeats)
            source, number = np.divmod(chosen, n)
            parts.append((source * count(tiles) + start + number, turn[np.arange(n), chosen]))
            start += n
        return Assembly(*map(np.concatenate, zip(*parts, strict=True)))

    with ThreadPoolExecutor() as pool:
        return Assembly(*map(np.stack, zip(*pool.map(row, range(len(targets))), strict=True)))


def costs(target: Tensor, source: Tensor, group: Tiles, width: int, describe: Describe) -> tuple[Ints, Ints]:
    """min over g of ‖tile_a − g·tile_b‖² for every pair, and the g: both `[n, S·n]`.

    `target [C, H·W]`, `source [C, S·H·W]`; ‖a‖² + ‖b‖² − 2ab is one matrix product for each g (or several).
    """
    pixels, symmetries = (torch.from_numpy(t).to(target.device) for t in (group.pixels, group.symmetries))
    n = len(pixels)
    a = describe(target[:, pixels].movedim(0, 1))  # [n, d]
    picture = torch.arange(source.shape[1] // target.shape[1], device=target.device)[:, None, None] * target.shape[1]
    b_values = source[:, (picture + pixels).flatten(0, 1)].movedim(0, 1)  # [S·n, C, m]
    best = turn = None
    at_once = max(1, 2**18 // (n * len(b_values)))
    for first in range(0, len(symmetries), at_once):
        b = describe(b_values[..., symmetries[first : first + at_once]].movedim(1, 2))  # [S·n, g, d]
        distance = a.square().sum(-1)[:, None, None] + b.square().sum(-1) - 2 * torch.einsum("nd,sgd->nsg", a, b)
        least, g = distance.min(-1)
        if best is None:
            best, turn = least, g
        else:
            better = least < best
            best, turn = torch.where(better, least, best), torch.where(better, g + first, turn)
    y, x = pixels[:, 0] // width, pixels[:, 0] % width
    moved = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / (width**2)
    best = best + (STAY * a.shape[1] * moved).repeat(1, len(picture))
    return best.double().cpu().numpy(), turn.cpu().numpy()


def assign(cost, repeats):
    n, m = cost.shape
    if repeats == "unlimited":
        return cost.argmin(1)
    if n > m * repeats:
        raise ValueError(f"{n} target tiles, and the source has {m} × {repeats} copies: allow more repeats")
    return linear_sum_assignment(np.tile(cost, repeats))[1] % m


def values(tile: Tensor) -> Tensor:
    return tile.flatten(-2)
