"""The nearest faces of a gallery, by exact search in tiles: memory stays flat whatever the number of faces.

A tile is one matrix product. Its columns form groups of `GROUP`, and only the largest similarity of each group is
looked at first. The k best entries lie in the k groups with the best maxima, so that only a fraction of about 1/GROUP
of the product has to be sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ROWS, COLUMNS, GROUP = 256, 32768, 64
"""Rows and columns of a tile (32 MB of similarities), and columns of a group. Tiles are wide, because each is searched
once for each row."""
NOTHING = -(1 << 63)
"""The key of no entry; it ranks behind every entry."""
LENGTH_SLACK = 1e-3
"""The length of a vector may differ from 1 by less than this."""

Floats = NDArray[np.float32]


def nearest(queries: Floats, gallery: Floats, k: int) -> tuple[Floats, NDArray[np.int64]]:
    """Finds the k nearest entries of `gallery [G, D]` for each of `queries [Q, D]`, all vectors having length 1.

    Returns cosine distances `[Q, k]`, ascending, and the rows of the entries `[Q, k]`. Among equal distances the lowest
    row comes first. Where the gallery has fewer than k entries, the rest has distance inf and row −1. Raises
    `ValueError` for vectors that are not of length 1 (NaN included), and for k < 1.
    """
    import torch

    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    best = torch.full((len(queries), k), NOTHING)
    for row, column, similarity in _tiles(queries, gallery):
        rows = slice(row, row + len(similarity))
        best[rows] = torch.cat([best[rows], _best_of(similarity, column, k)], 1).topk(k, 1).values
    found = best != NOTHING
    distances = torch.where(found, _distances(_similarity(best)), torch.inf)
    return distances.numpy(), torch.where(found, _row(best), -1).numpy()


def count_within(queries: Floats, gallery: Floats, threshold: float) -> NDArray[np.int64]:
    """Counts for each query the entries at a cosine distance ≤ `threshold`: int64 `[Q]`.

    Raises `ValueError` as `nearest` does.
    """
    counts = np.zeros(len(queries), dtype=np.int64)
    for row, _, similarity in _tiles(queries, gallery):
        within = _distances(similarity).le_(threshold).sum(1)  # ones and zeros, exact below 2²⁴
        counts[row : row + len(within)] += within.long().numpy()
    return counts


def distances(queries: Floats, gallery: Floats) -> Floats:
    """All cosine distances `[Q, G]`, float32 ≥ 0, for sets whose matrix fits into memory.

    Raises `ValueError` as `nearest` does.
    """
    result = np.empty((len(queries), len(gallery)), dtype=np.float32)
    for row, column, similarity in _tiles(queries, gallery):
        height, width = similarity.shape
        result[row : row + height, column : column + width] = _distances(similarity).numpy()
    return result


def _distances(similarity: Tensor) -> Tensor:
    """In place. Rounding leaves similarities a little above 1."""
    return similarity.clamp_(max=1).neg_().add_(1)


def _tiles(queries: Floats, gallery: Floats) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, first column, similarities) of each tile; the next one overwrites the memory of the last."""
    import torch

    q, g = _checked(queries, "queries"), _checked(gallery, "gallery")
    if len(q) and len(g) and q.shape[1] != g.shape[1]:
        raise ValueError(f"queries have {q.shape[1]} dimensions, the gallery has {g.shape[1]}")
    memory = torch.empty(min(ROWS, len(q)) * min(COLUMNS, len(g)))
    for row in range(0, len(q), ROWS):
        for column in range(0, len(g), COLUMNS):
            left, right = q[row : row + ROWS], g[column : column + COLUMNS].T
            tile = memory[: left.shape[0] * right.shape[1]].view(left.shape[0], right.shape[1])
            yield row, column, torch.mm(left, right, out=tile)


def _checked(vectors: Floats, name: str) -> Tensor:
    import torch

    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"{name}: float32 [N, D] is expected, found {vectors.dtype} {list(vectors.shape)}")
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    if not (np.abs(lengths - 1) < LENGTH_SLACK).all():  # NaN, too
        raise ValueError(f"{name}: vectors of length 1 are expected")
    return torch.from_numpy(np.ascontiguousarray(vectors))


def _best_of(similarity: Tensor, column: int, k: int) -> Tensor:
    """Keys `[Q, ≤ k]` of the best entries of a tile `[Q, G]` whose first column is the gallery's row `column`."""
    import torch

    whole = similarity.shape[1] // GROUP * GROUP
    rest = _keys(similarity[:, whole:], torch.arange(column + whole, column + similarity.shape[1]))
    if not whole:
        return rest.topk(min(k, rest.shape[1]), 1).values
    groups = similarity[:, :whole].unflatten(1, (-1, GROUP))
    maxima = _keys(groups.amax(2), torch.arange(groups.shape[1]))
    chosen = _row(maxima.topk(min(k, groups.shape[1]), 1).values)
    members = groups.gather(1, chosen[..., None].expand(-1, -1, GROUP)).flatten(1)
    rows = (column + chosen[..., None] * GROUP + torch.arange(GROUP)).flatten(1)
    keys = torch.cat([_keys(members, rows), rest], 1)
    return keys.topk(min(k, keys.shape[1]), 1).values


def _keys(similarity: Tensor, rows: Tensor) -> Tensor:
    """int64 that orders entries by similarity, the largest being the best, and equal ones by row, lowest first.

    The bits of a float, read as a whole number, are in order for positive numbers and in reverse for negative ones.
    """
    import torch

    return _mirrored(similarity.view(torch.int32)).long().mul_(1 << 32).add_(0xFFFFFFFF - rows)


def _similarity(keys: Tensor) -> Tensor:
    import torch

    return _mirrored((keys >> 32).to(torch.int32)).view(torch.float32)


def _mirrored(bits: Tensor) -> Tensor:
    """The order of the negative numbers reversed; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _row(keys: Tensor) -> Tensor:
    return 0xFFFFFFFF - (keys & 0xFFFFFFFF)
