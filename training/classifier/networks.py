"""Classifiers by name, so that a comparison does not depend on one architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.optional import require_package
from training.classifier.judge import SmallCNN

TIMM = "timm:"
"""What begins the names of timm's models."""


class ResNet18(nn.Module):
    """ResNet-18 with the stem for 32 × 32 images: a 3 × 3 convolution, no pooling (1512.03385, section 4.2)."""

    def __init__(self, classes: int) -> None:
        from torchvision.models import resnet18

        super().__init__()
        body = resnet18(num_classes=classes)
        body.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        body.maxpool = nn.Identity()
        self.head, body.fc = body.fc, nn.Identity()
        self.body = body

    def features(self, pixels: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` in [-1, 1] to features `[B, 512]`."""
        return self.body(pixels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` in [-1, 1] to logits `[B, classes]`."""
        return self.head(self.features(pixels))


class Timm(nn.Module):
    """Any classifier that timm has, with random weights. Raises `UserError` for an unknown name, or without timm."""

    def __init__(self, name: str, classes: int) -> None:
        require_package("timm", f"classifier {TIMM}{name}", extra="timm")
        import timm

        super().__init__()
        if name not in timm.list_models():
            raise UserError(f"classifier: timm knows no {name!r} (timm.list_models() names what it knows)")
        self.body: Any = timm.create_model(name, pretrained=False, num_classes=classes)

    def features(self, pixels: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` in [-1, 1] to features `[B, D]`, those before the last layer."""
        return self.body.forward_head(self.body.forward_features(pixels), pre_logits=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps `[B, 3, H, W]` in [-1, 1] to logits `[B, classes]`."""
        return self.body(pixels)


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {"small_cnn": SmallCNN, "resnet18": ResNet18}
"""What builds a classifier, given the number of classes."""


def build_classifier(name: str, classes: int, seed: int) -> nn.Module:
    """Builds a classifier with random weights, which the seed decides. Raises `UserError` for an unknown name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name.startswith(TIMM):
            return Timm(name.removeprefix(TIMM), classes)
        if name in CLASSIFIERS:
            return CLASSIFIERS[name](classes)
    raise UserError(f"classifier {name!r} is unknown (known: {', '.join(CLASSIFIERS)}, timm:NAME)")
