"""How near outputs are to originals, by the simplest judge there is: the nearest neighbour in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NearestShares:
    """Two fractions of all images, in [0, 1]."""

    label_agreement: float
    """Images whose nearest *other* original has the same label."""
    finds_source: float
    """Images whose nearest original of all is their own source."""


def neighbours(images: Tensor, originals: Tensor, labels: Tensor) -> NearestShares:
    """Finds the nearest originals of each image by Euclidean distance, and says how often they are the right ones.

    `images [N, ...]` were made from `originals [N, ...]` row by row, both float; `labels [N]` are those of the
    originals.
    """
    distances = torch.cdist(images.flatten(1), originals.flatten(1))
    rows = torch.arange(len(images))
    finds_source = (distances.argmin(1) == rows).float().mean().item()
    distances[rows, rows] = torch.inf
    agreement = (labels[distances.argmin(1)] == labels).float().mean().item()
    return NearestShares(label_agreement=agreement, finds_source=finds_source)
