"""Training one classifier for a fixed number of steps on originals and neighbours; to be read from top to bottom.

Everything random (order, neighbours, augmentation) is a function of the seed, and is the same in all arms that draw it.
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
"""The fraction of the steps in which the learning rate warms up."""
EVALUATED = 500
"""Images that are evaluated at once."""


class NotFinite(Exception):
    """Raised where the loss is no longer a finite number; the message says at which step."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What all arms of a comparison have in common."""

    steps: int
    """Optimiser steps."""
    batch_size: int
    """Images in a step."""
    lr: float
    """The largest learning rate."""
    weight_decay: float
    """AdamW's weight decay."""
    bf16: bool
    """Whether the forward pass runs in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class NeighbourPool:
    """C neighbours of each of N originals."""

    pixels: Tensor
    """uint8 `[C, N, 3, H, W]`."""
    targets: Tensor
    """float `[C, N, K]`: the probability of each class."""
    weights: Tensor
    """float `[C, N]` in [0, 1]; a neighbour of weight 0 is never drawn."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How neighbours come into batches."""

    p: float
    """The probability that an image is replaced by one of its neighbours."""
    until: float = 1.0
    """The fraction of the training after which only originals come."""
    batch_norm: Literal["shared", "separate"] = "shared"
    """With `separate`, neighbours are normalised by their own statistics, and do not change those that testing uses
    (1911.09665, section 4). Batches with fewer than two originals or two neighbours are not separated."""


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
    """Trains `network` in place on `images`, uint8 `[N, 3, H, W]`, with soft `targets` `[N, K]`, and returns it.

    The optimiser is AdamW with one cycle of the learning rate. Each epoch holds every image `repeat` times. Raises
    `NotFinite`.
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
    """The factor of the learning rate, in [0, 1]: a linear warm-up, then half a cosine down to 0."""
    return min(1.0, (step + 1) / max(1.0, FIRST_LR * steps)) * (1 + math.cos(math.pi * step / steps)) / 2


def epochs(count: int, repeat: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yields batches of rows, int64 `[batch_size]`, without end.

    Each epoch holds every row `repeat` times, in another order, and no batch is short.
    """
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(count * repeat, generator=rng) % count])
        yield left[:batch_size]
        left = left[batch_size:]


def mixed(
    pixels: Tensor, targets: Tensor, rows: Tensor, pool: NeighbourPool, p: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Replaces some images by one of their neighbours, drawn by weight; also returns bool `[B]`: which were replaced.

    An image is replaced as often as its best neighbour weighs. So one neighbour that is left does as well as all, and
    an image that has none left is never replaced.
    """
    weights = pool.weights[:, rows].T
    near = torch.rand(len(rows), generator=rng) < p * weights.amax(1)
    copies = torch.multinomial(weights.clamp(min=1e-12), 1, generator=rng)[:, 0]
    pixels = torch.where(near[:, None, None, None], pool.pixels[copies, rows], pixels)
    return pixels, torch.where(near[:, None], pool.targets[copies, rows], targets), near


def forward(network: nn.Module, x: Tensor, separate: Tensor | None) -> tuple[Tensor, Tensor]:
    """The logits, and the rows that they belong to.

    Where `separate`, bool `[B]`, is given, the neighbours that it marks go through apart, after the originals.
    """
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
    """While it is open, batch norms normalise by the batch and do not remember it."""
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
    """The mean cross entropy of logits `[B, K]` with soft targets `[B, K]`."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


@torch.inference_mode()
def logits_of(network: nn.Module, images: Tensor, device: str) -> Tensor:
    """The logits of uint8 images `[N, 3, H, W]`: float32 `[N, K]` on the CPU.

    They are never computed in half precision, which would make ties.
    """
    network.eval()
    parts = [network(part.to(device).float() / 127.5 - 1).cpu() for part in images.split(EVALUATED)]
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The fraction of images whose largest logit is at their label, in [0, 1]."""
    return float((logits.argmax(1) == labels).double().mean())


def accuracy_by_class(logits: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """The accuracy in each class; None for a class without images."""
    right = logits.argmax(1) == labels
    return [float(right[labels == c].double().mean()) if bool((labels == c).any()) else None for c in range(classes)]


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error, in [0, 1] (1706.04599, eq. 3), with bins of equal width."""
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).double()
    which = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [
        float((right[which == b].mean() - confidence[which == b].double().mean()).abs() * (which == b).double().mean())
        for b in range(bins)
        if bool((which == b).any())
    ]
    return sum(gaps)
