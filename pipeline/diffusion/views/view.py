"""What a view of an anagram is: the pixels of an image in another order, or with the other sign (2311.17919).

A view must be linear and orthogonal: then white noise stays white noise, and a model that sees a view of the noisy
image sees what it was trained on. A permutation with a sign is; it is built by moving a grid of indices.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pipeline.section import Section


class Moves(Protocol):
    """What a denoiser can look through: the noisy point on its way to the model, the clean estimate on its way back."""

    def __call__(self, x: Tensor) -> Tensor: ...
    def inverse(self, x: Tensor) -> Tensor: ...


class View(Section):
    """`view(x)` is what a viewer sees of `x [..., H, W]`; `view.inverse` brings it back, bit for bit."""

    sign: ClassVar[float] = 1.0
    name: str

    def move(self, grid: Tensor) -> Tensor:
        """`grid [H, W]` as the view shows it. Raises `ValueError` for a size that the view can't have."""
        return grid

    def index(self, height: int, width: int) -> Tensor:
        """Which pixel comes to each place: int64 `[H·W]`, row by row."""
        return self.move(torch.arange(height * width).reshape(height, width)).flatten()

    def __call__(self, x: Tensor) -> Tensor:
        order, _ = _orders(self, x.shape[-2], x.shape[-1], x.device)
        return self.sign * x.flatten(-2).index_select(-1, order).reshape(x.shape)

    def inverse(self, x: Tensor) -> Tensor:
        _, order = _orders(self, x.shape[-2], x.shape[-1], x.device)
        return self.sign * x.flatten(-2).index_select(-1, order).reshape(x.shape)

    def unfit(self, grid: Tensor, needs: str) -> ValueError:
        return ValueError(f"view {self.name} needs {needs}, and the images are {grid.shape[0]}×{grid.shape[1]}")


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the cache may be read later, where gradients are
def _orders(view: View, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    order = view.index(height, width).to(device)
    return order, order.argsort()


def shuffled(count: int, seed: int) -> Tensor:
    """A random order of `count` things, the same for the same seed: int64 `[count]`."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
