"""A face's expression, one of seven, by a small Xception trained on FER-2013.

The network is `mini_XCEPTION` of Arriaga, Ploeger & Valdenegro-Toro, "Real-time Convolutional Neural Networks for
Emotion and Gender Classification" (1710.07557), whose authors give 66 % on FER-2013. Its weights do not ship with
doppel: see `converting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from pipeline.anonymity.faces.ported import SameConv, load_converted, same
from pipeline.diffusion.exactness import exact

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SIDE, BATCH = 64, 64
"""Side of the grey square that the network sees in pixels, and faces in one pass."""
EXPRESSIONS = ("angry", "disgusted", "afraid", "happy", "sad", "surprised", "neutral")
"""What the network tells apart, in its order."""
GREY = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in the grey that it sees."""


class Valid(SameConv):
    """A convolution without padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, …]`."""
        return conv2d(x, self.weight, self.bias, self.stride)


class Module(nn.Module):
    """Two separable convolutions, pooled, beside a strided one; `first` leaves out the ReLU before them."""

    def __init__(self, inputs: int, width: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.around = SameConv(inputs, width, 1, 2)
        self.depth1, self.point1 = SameConv(inputs, inputs, 3, depthwise=True, bias=False), SameConv(inputs, width, 1)
        self.depth2, self.point2 = SameConv(width, width, 3, depthwise=True, bias=False), SameConv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, H, W]` to `[B, width, ⌈H / 2⌉, ⌈W / 2⌉]`."""
        inner = self.point1(self.depth1(x if self.first else relu(x)))
        inner = self.point2(self.depth2(relu(inner)))
        around: Tensor = self.around(x)
        return max_pool2d(same(inner, 3, 2, fill=-torch.inf), 3, 2) + around


class ExpressionNetwork(nn.Module):
    """Maps grey faces `[B, 1, 64, 64]` in [-1, 1] to the probabilities of the seven expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Valid(1, 32, 3, 2), Valid(32, 64, 3)
        self.module1, self.module2 = Module(64, 128, first=True), Module(128, 256, first=False)
        self.conv5 = SameConv(256, len(EXPRESSIONS), 3)

    def forward(self, grey: Tensor) -> Tensor:
        """The probabilities `[B, 7]` for `grey [B, 1, 64, 64]` in [-1, 1]."""
        x = relu(self.conv2(relu(self.conv1(grey))))
        places: Tensor = self.conv5(self.module2(self.module1(x)))
        return places.mean((2, 3)).softmax(1)


class ExpressionJudge:
    """The network on crops of faces."""

    def __init__(self, network: ExpressionNetwork, *, device: str = "cpu") -> None:
        self.device = device
        self.network = network.eval().requires_grad_(False).to(device)

    @classmethod
    def load(cls, *, device: str = "cpu") -> Self:
        """Loads the converted weights from deepface's folder. Raises `UserError` where they are missing or damaged."""
        network = ExpressionNetwork()
        load_converted("emotion", network)
        return cls(network, device=device)

    @torch.inference_mode()
    @exact()
    def judge(self, crops: Sequence[Pixels8]) -> NDArray[np.int64]:
        """The number in `EXPRESSIONS` of each of N crops, uint8 RGB of any size (N may be 0): `[N]`."""
        made = [np.empty(0, np.int64)]
        for start in range(0, len(crops), BATCH):
            how = Image.Resampling.BILINEAR
            batch = [np.asarray(Image.fromarray(c).resize((SIDE, SIDE), how)) for c in crops[start : start + BATCH]]
            grey = torch.from_numpy(np.stack(batch)).float() @ torch.tensor(GREY)
            made.append(self.network(grey[:, None].to(self.device) / 127.5 - 1).argmax(1).cpu().numpy())
        return np.concatenate(made)
