"""Classical augmentations of whole batches.

Each takes float `[B, 3, H, W]` in [-1, 1], soft targets `[B, K]` and a generator, and gives images and targets back.
All but `none` first crop and flip, as the field's baselines do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Images `[B, 3, H, W]`, targets `[B, K]` and a generator → images and targets."""

PADDING = 8
"""The crop moves by at most the side divided by this: 4 of 32 pixels (1512.03385, section 4.2)."""
MIXUP_ALPHA = 0.2
"""Both parameters of mixup's Beta distribution (1710.09412, section 3.1)."""
CUTMIX_ALPHA = 1.0
"""Both parameters of CutMix's Beta distribution (1905.04899, section 3.1)."""


def none(pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Changes nothing."""
    return pixels, targets


def flip_crop(pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors each image with probability ½ and moves it, filling with black."""
    count, _, height, width = pixels.shape
    flipped = torch.rand(count, generator=rng).to(pixels.device) < 0.5
    pixels = torch.where(flipped[:, None, None, None], pixels.flip(-1), pixels)
    most = max(1, min(height, width) // PADDING)
    padded = pad(pixels, (most, most, most, most), value=-1)
    down, across = torch.randint(0, 2 * most + 1, (2, count, 1), generator=rng).to(pixels.device)
    rows = (down + torch.arange(height, device=pixels.device))[:, None, :, None]
    columns = (across + torch.arange(width, device=pixels.device))[:, None, None, :]
    images = torch.arange(count, device=pixels.device)[:, None, None, None]
    channels = torch.arange(pixels.shape[1], device=pixels.device)[None, :, None, None]
    return padded[images, channels, rows, columns], targets


def randaugment(pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """RandAugment (1909.13719) with torchvision's defaults, each image drawing its own operations."""
    from torchvision.transforms.v2 import RandAugment

    return _each(RandAugment(), *flip_crop(pixels, targets, rng), rng)


def trivialaugment(pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """TrivialAugment (2103.10158) with torchvision's defaults, each image drawing its own operation."""
    from torchvision.transforms.v2 import TrivialAugmentWide

    return _each(TrivialAugmentWide(), *flip_crop(pixels, targets, rng), rng)


def mixup(pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blends each image and its target with those of another image in the batch (1710.09412, eq. 1)."""
    pixels, targets = flip_crop(pixels, targets, rng)
    share = _beta(MIXUP_ALPHA, rng)
    return share * pixels + (1 - share) * pixels.roll(1, 0), share * targets + (1 - share) * targets.roll(1, 0)


def cutmix(pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pastes a rectangle of another image in the batch; targets mix by its area (1905.04899, eq. 1 and 2)."""
    pixels, targets = flip_crop(pixels, targets, rng)
    height, width = pixels.shape[2:]
    cut = (1 - _beta(CUTMIX_ALPHA, rng)) ** 0.5
    y, x = (torch.rand(2, generator=rng) * torch.tensor([height, width])).tolist()
    top, bottom = (round(min(max(y + side * cut * height / 2, 0), height)) for side in (-1, 1))
    left, right = (round(min(max(x + side * cut * width / 2, 0), width)) for side in (-1, 1))
    pixels = pixels.clone()
    pixels[:, :, top:bottom, left:right] = pixels.roll(1, 0)[:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return pixels, share * targets + (1 - share) * targets.roll(1, 0)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": none,
    "flip_crop": flip_crop,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
    "mixup": mixup,
    "cutmix": cutmix,
}
"""All augmentations, by the names that recipes use."""


def _each(transform: torch.nn.Module, pixels: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every image its own draw. Torchvision knows the global generator only: it is seeded, and given back after."""
    images = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        images = torch.stack([transform(image) for image in images])
    return images.float() / 127.5 - 1, targets


def _beta(alpha: float, rng: torch.Generator) -> float:
    """One draw from Beta(α, α); torch's own takes no generator."""
    return float(np.random.default_rng(int(torch.randint(2**62, (), generator=rng))).beta(alpha, alpha))
