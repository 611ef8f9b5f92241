"""Face networks that an attacker can go on training: a fixed beginning, computed once, and layers that learn."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu6

from pipeline.anonymity.faces.dlib_net import BLOCKS, FILE, SIDE, DlibNet, residual
from pipeline.anonymity.faces.embedder import SmallEmbedder
from pipeline.anonymity.faces.faceres import SIDE as FACERES
from pipeline.anonymity.faces.faceres import FaceRes, FaceResNetwork, centred
from pipeline.anonymity.faces.weights import require

FIXED = 7
"""Residual blocks of Dlib's network (of 14) that stay as they are: they cost the most, and see edges and spots. The
other seven hold 94 % of the parameters."""


class Tunable(Protocol):
    """A face network in two parts."""

    side: int
    """Side in pixels of the pictures that it sees."""

    def begin(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What does not learn, of RGB pictures `[B, side, side, 3]`: features `[B, ...]`."""
        ...

    def __call__(self, features: Tensor) -> Tensor:
        """Embeds features as `[B, D]`, not normalised."""
        ...

    def parameters(self) -> object:
        """All that learns."""
        ...


class TunableSmall(nn.Module):
    """The shipped embedder; all of its layers learn, and its norms keep their statistics."""

    def __init__(self, embedder: SmallEmbedder) -> None:
        super().__init__()
        self.side = embedder.config.size
        self.network = deepcopy(embedder.network).requires_grad_(True)

    def begin(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Brings pictures `[B, side, side, 3]` to `[B, 3, side, side]` in [-1, 1]."""
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1

    def forward(self, features: Tensor) -> Tensor:
        """Embeds `[B, 3, side, side]` as `[B, 128]`."""
        return self.network(features.contiguous(memory_format=torch.channels_last))


class TunableDlib(nn.Module):
    """Dlib's network, of which the last seven residual blocks and the final matrix learn."""

    side = SIDE

    def __init__(self, net: DlibNet) -> None:
        super().__init__()
        self._net, self._layers = net, net.layers[1 + 2 * FIXED :]
        self.weights = nn.ParameterList(layer.weight.clone() for layer in self._layers)
        self.biases = nn.ParameterList(layer.bias.clone() for layer in self._layers)
        self.head = nn.Parameter(net.head.clone())

    def begin(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Takes chips `[B, 150, 150, 3]` through the first seven blocks: `[B, 64, 17, 17]`."""
        x = self._net.first(torch.from_numpy(pixels))
        return residual(x, self._net.layers[1 : 1 + 2 * FIXED], BLOCKS[:FIXED])

    def forward(self, features: Tensor) -> Tensor:
        """Embeds `[B, 64, 17, 17]` as `[B, 128]`."""
        learnt = zip(self._layers, self.weights, self.biases, strict=True)
        layers = [replace(layer, weight=weight, bias=bias) for layer, weight, bias in learnt]
        return residual(features, layers, BLOCKS[FIXED:]).mean((2, 3)) @ self.head


class TunableFaceRes(nn.Module):
    """HSE-FaceRes, of which the last three convolutions learn: half of the parameters behind its features."""

    side = FACERES

    def __init__(self, network: FaceResNetwork) -> None:
        super().__init__()
        convolutions = [layer for name, layer in network.named_children() if name.startswith("conv")]
        self._fixed = convolutions[:-3]
        self.layers = nn.ModuleList(deepcopy(layer).requires_grad_(True) for layer in convolutions[-3:])

    def begin(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Takes squares `[B, 224, 224, 3]` through all other convolutions: `[B, 512, 7, 7]`."""
        x = centred(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
        for layer in self._fixed:
            x = relu6(layer(x))
        return x

    def forward(self, features: Tensor) -> Tensor:
        """Embeds `[B, 512, 7, 7]` as `[B, 1024]`."""
        for layer in self.layers:
            features = relu6(layer(features))
        return features.mean((2, 3))


def _small() -> Tunable:
    return TunableSmall(SmallEmbedder.load())


def _dlib() -> Tunable:
    return TunableDlib(DlibNet(require(FILE, owner="recogniser dlib-chip")))


def _faceres() -> Tunable:
    return TunableFaceRes(FaceRes.load().network)


NETWORKS: dict[str, Callable[[], Tunable]] = {"small": _small, "dlib-chip": _dlib, "faceres": _faceres}
"""What loads a fresh network, by the recogniser whose weights it begins with."""
