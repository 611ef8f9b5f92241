"""How near the outputs are to the originals, by the plainest judge there is: the nearest neighbour in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NearestShares:
    """Shares in [0, 1] over all images."""

    label_agreement: float
    """The nearest *other* original has the same label."""
    finds_source: float
    """The nearest original of all is the image's own source."""


def neighbours(images: Tensor, originals: Tensor, labels: Tensor) -> NearestShares:
    """`images [N, ...]` made from `originals [N, ...]` row by row, float; `labels [N]`. Euclidean distance."""
    distances = torch.cdist(images.flatten(1), originals.flatten(1))
    rows = torch.arange(len(images))
    finds_source = (distances.argmin(1) == rows).float().mean().item()
    distances[rows, rows] = torch.inf
    agreement = (labels[distances.argmin(1)] == labels).float().mean().item()
    return NearestShares(label_agreement=agreement, finds_source=finds_source)
