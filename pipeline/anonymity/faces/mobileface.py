"""MobileFace (version 3 of its identification network): 256 features out of 0.55 million parameters.

The network is that of the project MobileFace by becauseofAI, which gives 95.5 % on the pairs of LFW for it. Its weights
do not ship with doppel: see `converting`. No crop behind dlib's detector was found with which it reaches the floor of a
certificate at 64 pixels, so none ships: it may attack, but not judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pipeline.anonymity.faces.ported import load_converted
from pipeline.diffusion.exactness import exact

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SIDE, DIMENSIONS = 112, 256
"""Side of the square that the network sees in pixels, and length of an embedding."""
WIDTHS = (32, 32, 64, 128)
"""Channels of each stage; each halves height and width."""
BATCH = 64
"""Faces in one pass through the network."""


class Conv(nn.Module):
    """A convolution without bias that pads by half its size on all sides."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight = nn.Parameter(torch.zeros(outputs, inputs // groups, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, ⌈H / stride⌉, ⌈W / stride⌉]`."""
        return conv2d(x, self.weight, None, self.stride, self.weight.shape[-1] // 2, 1, self.groups)


class Stage(nn.Module):
    """A pointwise convolution, and three of each channel alone, the last two beside a way around them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.point = Conv(inputs, width, 1)
        self.conv0, self.prelu0 = Conv(width, width, 3, 2, width), nn.PReLU(width)
        self.conv1, self.prelu1 = Conv(width, width, 3, 1, width), nn.PReLU(width)
        self.conv2, self.prelu2 = Conv(width, width, 3, 1, width), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, H, W]` to `[B, width, H / 2, W / 2]`."""
        x = self.prelu0(self.conv0(self.point(x)))
        inner: Tensor = self.prelu2(self.conv2(self.prelu1(self.conv1(x))))
        return x + inner


class MobileFaceNetwork(nn.Module):
    """Maps `pixels [B, 3, 112, 112]`, RGB in [0, 255], to `[B, 256]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = Conv(3, 32, 3, 2), nn.PReLU(32)
        for i, (inputs, width) in enumerate(zip((32, *WIDTHS), WIDTHS, strict=False), 1):
            self.add_module(f"stage{i}", Stage(inputs, width))
        self.dense = nn.Linear(16 * WIDTHS[-1], DIMENSIONS, bias=False)
        self.scale, self.bias = nn.Parameter(torch.ones(DIMENSIONS)), nn.Parameter(torch.zeros(DIMENSIONS))

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeds `pixels [B, 3, 112, 112]`, RGB in [0, 255], as `[B, 256]`, not normalised."""
        x = self.prelu1(self.conv1((pixels - 127.5) / 128))
        for i in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"stage{i}")(x)
        # The graph counts channels last.
        flat: Tensor = self.dense(x.permute(0, 2, 3, 1).flatten(1))
        return flat * self.scale + self.bias


class MobileFace:
    """The network as a recogniser; a face and its mirror image have the same embedding."""

    name = "mobileface"
    threshold: float | None = None

    def __init__(self, network: MobileFaceNetwork, *, weights: str, device: str = "cpu") -> None:
        self.weights, self.device = weights, device
        self.network = network.eval().requires_grad_(False).to(device)

    @classmethod
    def load(cls, *, device: str = "cpu") -> Self:
        """Loads the converted weights from deepface's folder. Raises `UserError` where they are missing or damaged."""
        network = MobileFaceNetwork()
        return cls(network, weights=load_converted("mobileface", network), device=device)

    @torch.inference_mode()
    @exact()
    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds N squares (N may be 0), each as in `Face.square`, as `[N, 256]`, not normalised."""
        made = [np.empty((0, DIMENSIONS), np.float32)]
        for start in range(0, len(crops), BATCH):
            pixels = torch.from_numpy(np.stack([_small(crop) for crop in crops[start : start + BATCH]]))
            pixels = pixels.to(self.device).permute(0, 3, 1, 2).float()
            made.append((self.network(pixels) + self.network(pixels.flip(3))).cpu().numpy())
        return np.concatenate(made)


def _small(crop: Pixels8) -> Pixels8:
    return np.asarray(Image.fromarray(crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
