"""Labelled subsets with equally many images of each class, drawn by a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import UserError


def draw_subset(labels: Tensor, size: int | None, classes: int, seed: int) -> Tensor:
    """Draws rows int64 `[size]` of `labels [N]`, with each class as often as any other, or once more.

    With `size` None, all rows are taken. Raises `UserError` where a class has too few images.
    """
    counts = torch.bincount(labels, minlength=classes)
    if size is None or size == len(labels):
        wanted = counts.clamp(min=1)
    elif size > len(labels):
        raise UserError(f"sizes: {size} images are asked for, and the training set has {len(labels)}")
    else:
        wanted = torch.full((classes,), size // classes)
        wanted[: size % classes] += 1
    for label in range(classes):
        if wanted[label] < 1 or counts[label] < wanted[label]:
            raise UserError(
                f"class {label} is missing from a subset of {len(labels) if size is None else size}: it has "
                f"{counts[label]} images in the training set, and the subset takes {wanted[label]} of them"
            )
    if size is None or size == len(labels):
        return torch.arange(len(labels))  # one pool of neighbours for all seeds
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    rows = torch.cat([order[labels[order] == label][: wanted[label]] for label in range(classes)])
    return rows[torch.randperm(len(rows), generator=rng)]
