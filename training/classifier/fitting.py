"""One classifier trained for a fixed number of steps on originals and neighbours; read top to bottom.

Everything random (order, neighbours, augmentation) is a function of the seed, and the same for all arms that draw it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from training.classifier.augmentations import Augmentation

FIRST_LR = 0.05
"""Share of the steps that warm the learning rate up."""
EVALUATED = 500
"""Images at once."""


class NotFinite(Exception):
    """The loss is not a number any more; the message says at which step."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What all arms of a comparison share."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    bf16: bool


@dataclass(frozen=True, kw_only=True)
class NeighbourPool:
    """Neighbours of N originals: `pixels` uint8 `[C, N, 3, H, W]`, soft `targets` `[C, N, K]`, `weights` `[C, N]`: 0 is
    never drawn."""

    pixels: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How neighbours come into batches."""

    p: float
    """Probability that an image is replaced by one of its neighbours."""
    until: float = 1.0
    """Share of the training after which only originals come."""
    batch_norm: Literal["shared", "separate"] = "shared"
    """`separate`: neighbours are normalised by their own statistics, and leave no trace in those that testing uses
    (1911.09665, section 4), but for batches with fewer than two of either kind."""


def fit(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    schedule: Schedule,
    augmentation: Augmentation,
    *,
    seed: int,
    device: str,
    pool: NeighbourPool | None = None,
    mixing: Mixing | None = None,
    repeat: int = 1,
) -> nn.Module:
    """Trains on `images` uint8 `[N, 3, H, W]` with soft `targets` `[N, K]`; AdamW, one cycle. In place.

    `repeat`: times that an epoch holds each image. Raises `NotFinite`.
    """
    orders, rng = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    draws = torch.Generator().manual_seed(seed + 2)
    network = network.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay)
    batches = epochs(len(images), repeat, schedule.batch_size, orders)
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr * cycle(step, schedule.steps)
        rows = next(batches)
        pixels, wanted, near = images[rows], targets[rows], torch.zeros(len(rows), dtype=torch.bool)
        if pool is not None and mixing is not None and step < mixing.until * schedule.steps:
            pixels, wanted, near = mixed(pixels, wanted, rows, pool, mixing.p, draws)
        x, wanted = augmentation(pixels.to(device).float() / 127.5 - 1, wanted.to(device), rng)
        separate = near if mixing is not None and mixing.batch_norm == "separate" else None
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=schedule.bf16):
            logits, order = forward(network, x, separate)
        loss = soft_cross_entropy(logits.float(), wanted[order.to(device)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not math.isfinite(loss.item()):
            raise NotFinite(f"the loss is not finite at step {step + 1} of {schedule.steps}")
    return network.eval().requires_grad_(False)


def cycle(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    return min(1.0, (step + 1) / max(1.0, FIRST_LR * steps)) * (1 + math.cos(math.pi * step / steps)) / 2


def epochs(count: int, repeat: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches of rows, endlessly: each epoch holds every row `repeat` times, in another order; no batch is short."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(count * repeat, generator=rng) % count])
        yield left[:batch_size]
        left = left[batch_size:]


def mixed(
    pixels: Tensor, targets: Tensor, rows: Tensor, pool: NeighbourPool, p: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Some images replaced by one of their neighbours, drawn by weight; and bool `[B]`, which.

    An image is replaced as often as its best neighbour weighs: with one left as often as with all, with none never.
    """
    weights = pool.weights[:, rows].T
    near = torch.rand(len(rows), generator=rng) < p * weights.amax(1)
    copies = torch.multinomial(weights.clamp(min=1e-12), 1, generator=rng)[:, 0]
    pixels = torch.where(near[:, None, None, None], pool.pixels[copies, rows], pixels)
    return pixels, torch.where(near[:, None], pool.targets[copies, rows], targets), near


def forward(network: nn.Module, x: Tensor, separate: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits, and the rows that they belong to: with `separate`, neighbours (bool `[B]`) go apart, after originals."""
    everything = torch.arange(len(x))
    if separate is None or not bool(separate.any()):
        return network(x.contiguous(memory_format=torch.channels_last)), everything
    near, own = separate.nonzero().flatten(), (~separate).nonzero().flatten()
    if len(own) < 2 or len(near) < 2:  # too few for statistics of their own
        return network(x.contiguous(memory_format=torch.channels_last)), everything
    first = network(x[own.to(x.device)].contiguous(memory_format=torch.channels_last))
    with running_statistics_kept(network):
        second = network(x[near.to(x.device)].contiguous(memory_format=torch.channels_last))
    return torch.cat([first, second]), torch.cat([own, near])


@contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch, and remember nothing of it."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * logits.log_softmax(1)).sum(1).mean()


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor, device: str) -> Tensor:
    """float32 `[N, K]` on the CPU, of uint8 `[N, 3, H, W]`; never in half precision, whose logits tie."""
    network.eval()
    parts = [network(part.to(device).float() / 127.5 - 1).cpu() for part in images.split(EVALUATED)]
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def accuracy_by_class(logits: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """None for a class without images."""
    right = logits.argmax(1) == labels
    return [float(right[labels == c].double().mean()) if bool((labels == c).any()) else None for c in range(classes)]


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (1706.04599, eq. 3)."""
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).double()
    which = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [
        float((right[which == b].mean() - confidence[which == b].double().mean()).abs() * (which == b).double().mean())
        for b in range(bins)
        if bool((which == b).any())
    ]
    return sum(gaps)
