"""A trained inverter: a network from released images to originals, trained on the attacker's own pairs.

It begins with the best linear guess and corrects it with a small U-Net. The guess lays tiles back, turns, mirrors and
inverts, which a network of few steps would not learn; the U-Net sharpens, and knows what faces look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, pixel_shuffle, pixel_unshuffle, silu

from pipeline.anonymity.attacks.photos import Indices
from pipeline.diffusion.exactness import exact

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SIDE, COARSE = 64, 32
"""Sides in pixels at which the U-Net and the linear guess work, whatever the size of the images."""
WIDTHS = (32, 64, 96)
"""Channels of the U-Net at a half, a quarter and an eighth of `SIDE`."""
STEPS, BATCH, RATE = 100, 32, 2e-3
"""Optimiser steps of each network, images in a step, and the largest learning rate: the whole budget."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties that are tried, in units of the mean squared length of an image; the best one on pairs left out is
kept."""
FOLDS, FEWEST_PEOPLE = 2, 8
"""People are divided into so many parts, each inverted by a network that was trained on the others; fewer known people
than the second number teach it nothing."""


class Corrector(nn.Module):
    """A U-Net (1505.04597) from a released image and a guess to what is wrong with the guess; 0.5 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.into = _convolutions(24, first)
        self.down1, self.down2 = (nn.Conv2d(a, b, 3, 2, 1) for a, b in ((first, second), (second, third)))
        self.at1, self.at2 = _convolutions(second, second), _convolutions(third, third)
        self.up2, self.up1 = _convolutions(third + second, second), _convolutions(second + first, first)
        self.out = nn.Conv2d(first, 12, 3, 1, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, released: Tensor, guess: Tensor) -> Tensor:
        """Maps two images `[B, 3, SIDE, SIDE]` to the corrected guess, of the same shape."""
        half = self.into(pixel_unshuffle(torch.cat([released, guess], 1), 2))
        quarter = self.at1(silu(self.down1(half)))
        x = self.at2(silu(self.down2(quarter)))
        x = self.up2(torch.cat([interpolate(x, scale_factor=2.0), quarter], 1))
        x = self.up1(torch.cat([interpolate(x, scale_factor=2.0), half], 1))
        return guess + pixel_shuffle(self.out(x), 2)


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, 1, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
    return nn.Sequential(*layers)


def inverted(
    released: Sequence[Pixels8], sources: Sequence[Pixels8], owner: Indices, *, seed: int = 0
) -> list[Pixels8] | None:
    """Inverts released images, each with a network that has never seen its person.

    `sources` are the originals of the released images, uint8 `[H, W, 3]` of one size, and `owner [R]` says who is in
    them (see `owner_of`). Returns images of the same size, or None where fewer than `FEWEST_PEOPLE` people would be
    known.
    """
    people = np.unique(owner)
    part = np.random.default_rng(seed).permutation(len(people)) % FOLDS
    if len(people) - np.bincount(part, minlength=FOLDS).max() < FEWEST_PEOPLE:
        return None
    x, y = _tensors(released), _tensors(sources)
    made = torch.empty_like(x)
    for turn in range(FOLDS):
        tested = np.isin(owner, people[part == turn])
        known, others = (torch.from_numpy(np.flatnonzero(rows)) for rows in (~tested, tested))
        made[others] = _of_others(x[known], y[known], x[others], seed + turn)
    height, width = released[0].shape[:2]
    return [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
            for image in _bytes(made)]  # fmt: skip


def _of_others(x: Tensor, y: Tensor, others: Tensor, seed: int) -> Tensor:
    """What a network that was trained on pairs x → y `[N, 3, SIDE, SIDE]` makes of other images `[M, …]`."""
    guess, guess_of_others = (_fine(side) for side in best_guess(_coarse(x), _coarse(y), _coarse(others)))
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]), exact():
        torch.manual_seed(seed)
        network = Corrector()
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
        for _ in range(STEPS):
            rows = torch.from_numpy(generator.integers(0, len(x), min(BATCH, len(x))))
            loss = l1_loss(network(x[rows], guess[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.inference_mode():
            parts = zip(others.split(BATCH), guess_of_others.split(BATCH), strict=True)
            return torch.cat([network(*part) for part in parts])


def best_guess(x: Tensor, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The better of two linear guesses of y, each `[N, D]`, for x and for `others [M, D]`.

    One knows nothing where pairs are few, and the other leaves images as they are.
    """
    anew, change = linear(x, y, others), linear(x, y - x, others)
    changed = x + change[0], others + change[1]
    errors = [float(((without - y) ** 2).mean()) for without in (anew[0], changed[0])]
    return anew if errors[0] <= errors[1] else changed


def linear(x: Tensor, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression of y `[N, D]` on x `[N, D]`, by the dual form: guesses for x and for `others [M, D]`.

    The guess for each row of x comes from a fit without this row, in closed form: what it is taught with must be as bad
    as what it will see. The ridge is the one with the smallest error of these guesses.
    """
    mean_in, mean_out = x.mean(0), y.mean(0)
    a, b = (x - mean_in).double(), (y - mean_out).double()
    values, directions = torch.linalg.eigh(a @ a.T)
    values = values.clamp(min=0)
    turned, unit = directions.T @ b, max(float(values.mean()), 1e-12)
    best: tuple[float, Tensor, Tensor] | None = None
    for ridge in RIDGES:
        shrunk = values + ridge * unit
        fit = directions @ (turned * (values / shrunk)[:, None])
        leverage = (directions**2 @ (values / shrunk) + 1 / len(x)).clamp(max=1 - 1e-6)[:, None]
        without = b - (b - fit) / (1 - leverage)
        error = float(((without - b) ** 2).mean())
        if best is None or error < best[0]:
            best = error, without, directions @ (turned / shrunk[:, None])
    assert best is not None
    _, without, weights = best
    return (without + mean_out).float(), ((others - mean_in).double() @ a.T @ weights + mean_out).float()


def _tensors(images: Sequence[Pixels8]) -> Tensor:
    """float32 `[N, 3, SIDE, SIDE]` in [-1, 1]."""
    small = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _coarse(images: Tensor) -> Tensor:
    return interpolate(images, size=(COARSE, COARSE), mode="bilinear", antialias=True).flatten(1)


def _fine(rows: Tensor) -> Tensor:
    return interpolate(rows.view(-1, 3, COARSE, COARSE), size=(SIDE, SIDE), mode="bicubic")


def _bytes(images: Tensor) -> NDArray[np.uint8]:
    return ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
