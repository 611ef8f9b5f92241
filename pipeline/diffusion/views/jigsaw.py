"""The pieces of a square jigsaw puzzle that looks the same after a quarter turn."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

DERANGEMENTS = [order for order in permutations(range(4)) if all(i != place for i, place in enumerate(order))]
"""The nine orders of four things that leave none in its place."""
TAB_CENTRE, TAB_RADIUS, NECK = 0.2, 0.19, 0.1
"""Measures of a tab, in cells: the centre of its head behind the edge, the head's radius, half the neck's width."""


def jigsaw_cells(side: int, pieces: int) -> Tensor:
    """Row and column of the piece that each pixel belongs to: int64 `[2, side, side]`, `pieces` (even) a side.

    Pieces are square cells that interlock by tabs: where row + column is even, a piece reaches out to its left and
    right and gives way above and below; where it is odd, the other way round. A quarter turn swaps both at once, so
    the puzzle is symmetric under it, and a piece and its three turned copies are congruent.
    """
    cell = side // pieces
    place = torch.arange(side)
    index, offset = place // cell, 2 * (place % cell) + 1  # half pixels, 1 … 2·cell − 1: both edges exactly alike
    row, column = torch.meshgrid(index, index, indexing="ij")
    down, right = torch.meshgrid(offset, offset, indexing="ij")
    odd = (row + column) % 2
    depth, across = torch.where(odd == 1, right, down), torch.where(odd == 1, down, right)
    step = _in_tab(2 * cell - depth, across, cell).long() - _in_tab(depth, across, cell).long()
    return torch.stack([row + step * (1 - odd), column + step * odd]).clamp(0, pieces - 1)  # none across the border


def _in_tab(depth: Tensor, across: Tensor, cell: int) -> Tensor:
    """Whether a pixel this far behind an edge, and along it, is covered by the neighbour's tab."""
    sideways = (across - cell).abs()
    head = (depth - 2 * cell * TAB_CENTRE) ** 2 + sideways**2 <= (2 * cell * TAB_RADIUS) ** 2
    return head | ((depth <= 2 * cell * TAB_CENTRE) & (sideways <= 2 * cell * NECK))


def jigsaw_turns(side: int, pieces: int, seed: int) -> Tensor:
    """Quarter turns about the centre of the image that bring each place its new pixel: int64 `[side, side]`.

    A piece and its turned copies are an orbit of four; in each, all four change places, in an order of its own.
    """
    half = pieces // 2
    corner = torch.zeros(pieces, pieces, dtype=torch.int64)
    corner[:half, :half] = torch.arange(half * half).reshape(half, half)
    first = torch.zeros_like(corner)
    first[:half, :half] = 1
    orbit = sum(torch.rot90(corner, turn) for turn in range(4))
    member = sum(turn * torch.rot90(first, turn) for turn in range(4))
    drawn = torch.randint(len(DERANGEMENTS), (half * half,), generator=torch.Generator().manual_seed(seed))
    origin = torch.tensor(DERANGEMENTS)[drawn]  # [orbits, 4]: which member comes to this place
    turns = (member - origin[orbit, member]) % 4
    row, column = jigsaw_cells(side, pieces)
    return turns[row, column]
