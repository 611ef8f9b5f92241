"""A small classifier that judges generated images; it must not be the model that made them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.report.progress import training_progress
from pipeline.tensors import read_tensors, write_tensors

LAST_STEPS = 20
"""The progress bar shows the mean loss over so many steps."""


class SmallCNN(nn.Module):
    """Three convolutions at halving resolution, then the maximum over positions; about 0.24 M parameters.

    Takes `[B, 3, H, W]` in [-1, 1]; `features` gives `[B, 128]`, the call `[B, classes]` logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(128, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` in [-1, 1] to features `[B, 128]`."""
        return self.body(pixels).amax((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` in [-1, 1] to logits `[B, classes]`."""
        return self.head(self.features(pixels))


def train_classifier(
    images: Tensor, labels: Tensor, *, epochs: float = 3, batch_size: int = 128, lr: float = 2e-3, seed: int = 0
) -> SmallCNN:
    """Trains a `SmallCNN` on `images` uint8 `[N, 3, H, W]` and `labels` int64 `[N]`.

    AdamW with one cycle of the learning rate; each batch is moved by up to 2 pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallCNN(int(labels.max()) + 1)
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.05)
    steps = math.ceil(epochs * len(images) / batch_size)
    losses: list[float] = []
    with training_progress(batch_size, enabled=True) as report:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2
            rows = torch.randint(len(images), (batch_size,), generator=rng)
            pixels = shifted(images[rows].float() / 127.5 - 1, rng)
            loss = cross_entropy(network(pixels), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            report(step + 1, (step + 1) / steps, sum(losses[-LAST_STEPS:]) / len(losses[-LAST_STEPS:]))
    return network.eval().requires_grad_(False)


def shifted(pixels: Tensor, rng: torch.Generator, most: int = 2) -> Tensor:
    """Moves the batch by up to `most` pixels in each direction, filling with black."""
    across, down = (int(torch.randint(-most, most + 1, (), generator=rng)) for _ in range(2))
    padded = nn.functional.pad(pixels, (most, most, most, most), value=-1)
    height, width = pixels.shape[2:]
    return padded[:, :, most + down : most + down + height, most + across : most + across + width]


@torch.inference_mode()
def evaluate(network: SmallCNN, images: Tensor, batch_size: int = 500) -> Tensor:
    """The logits `[N, classes]` of images `[N, 3, H, W]`, uint8 or float in [-1, 1]."""
    parts = images.split(batch_size)
    return torch.cat([network(p.float() / 127.5 - 1 if p.dtype == torch.uint8 else p) for p in parts])


def save_classifier(network: SmallCNN, file: Path) -> None:
    """Writes the weights as safetensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_tensors({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)


def load_classifier(file: Path) -> SmallCNN:
    """Reads a classifier that `save_classifier` wrote; it is in evaluation mode and cannot be trained further."""
    weights = read_tensors(file)
    network = SmallCNN(len(weights["head.bias"]))
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
