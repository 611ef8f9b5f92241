"""Training images at hand: on the device where they fit, so that no step waits for the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from training.data.cache import PixelCache

SHARE = 0.25
"""The fraction of a device's free memory that images may take. Larger sets stay on disk, and each batch is copied."""


class ResidentImages:
    """Rows of a `PixelCache` on `device`."""

    def __init__(self, cache: PixelCache, device: torch.device) -> None:
        self.device, self._cache = device, cache
        self.labels = torch.from_numpy(cache.labels).to(device)
        """int64 `[N]`, −1 where there is none."""
        fits = device.type == "cuda" and cache.pixels.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]
        self._pixels = cache.images().to(device) if fits else None

    def __len__(self) -> int:
        return len(self._cache)

    def pixels(self, rows: Tensor) -> Tensor:
        """The images of the given rows, int64 `[B]`: uint8 `[B, 3, H, W]`."""
        if self._pixels is not None:
            return self._pixels[rows]
        return torch.from_numpy(self._cache.pixels[rows.cpu().numpy()]).to(self.device).permute(0, 3, 1, 2)
