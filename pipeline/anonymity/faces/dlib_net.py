"""Dlib's face recognition network (29 convolutions, 128 numbers for each face) in torch: in batches, on any device.

It is the network of dlib's `dnn_face_recognition_ex.cpp`, which dlib itself runs on a CPU, one face at a time and many
times slower. Its parameters are read from dlib's own `.dat` file (format: dlib's `serialize.h` and `tensor_tools.h`),
which must have the pinned sha256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad, relu

from pipeline.anonymity.faces.weights import PINNED, digest
from pipeline.diffusion.exactness import exact
from pipeline.errors import UserError

FILE = "dlib_face_recognition_resnet_model_v1.dat"
SIDE, DIMENSIONS = 150, 128
"""Side of an aligned face in pixels, and length of its embedding."""
MEAN, SCALE = (122.782, 117.001, 104.298), 256
"""Mean of each channel that is subtracted (RGB, 0 to 255), and the number that pixels are then divided by."""
BLOCKS = (
    (32, False), (32, False), (32, False), (64, True), (64, False), (64, False), (64, False),
    (128, True), (128, False), (128, False), (256, True), (256, False), (256, False), (256, True),
)  # fmt: skip
"""Channels of each residual block, and whether it halves height and width."""
BATCH = 64
"""Faces in one pass through the network."""


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """A convolution with the affine layer behind it folded into its weights."""

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int

    def __call__(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to `[B, C', H', W']`."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)


class DlibNet:
    """Maps aligned uint8 RGB faces `[N, 150, 150, 3]` to float32 `[N, 128]`, as `compute_face_descriptor` does."""

    def __init__(self, file: Path, device: torch.device | str = "cpu") -> None:
        """Reads dlib's weight file. Raises `UserError` unless it has the pinned sha256."""
        found = digest([file])
        if found != PINNED[FILE]:
            raise UserError(f"{file}: sha256 is {found}, {PINNED[FILE]} is expected")
        self.device = torch.device(device)
        layers, head = read(file.read_bytes())
        self.layers = [_moved(layer, self.device) for layer in layers]
        self.head = head.to(self.device)
        self._mean = torch.tensor(MEAN, device=self.device)[:, None, None]

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds the faces in batches, on the device of the network; N may be 0."""
        made = np.empty((len(faces), DIMENSIONS), np.float32)
        with torch.inference_mode(), exact():
            for i in range(0, len(faces), BATCH):
                made[i : i + BATCH] = self.forward(torch.from_numpy(faces[i : i + BATCH])).cpu().numpy()
        return made

    def forward(self, faces: Tensor) -> Tensor:
        """Embeds faces `[B, 150, 150, 3]`, RGB from 0 to 255, in one pass: `[B, 128]`, differentiable."""
        x = residual(self.first(faces), self.layers[1:], BLOCKS)
        return x.mean((2, 3)) @ self.head

    def first(self, faces: Tensor) -> Tensor:
        """What comes before the residual blocks, of faces `[B, 150, 150, 3]`, RGB from 0 to 255: `[B, 32, 35, 35]`."""
        x = (faces.to(self.device).movedim(-1, 1).float() - self._mean) / SCALE
        return max_pool2d(relu(self.layers[0](x)), 3, 2)


def residual(x: Tensor, layers: Sequence[ConvLayer], blocks: Sequence[tuple[int, bool]]) -> Tensor:
    """Runs residual blocks, of two of the layers each, on `[B, C, H, W]`; `blocks` is a part of `BLOCKS`."""
    for (_, halves), inner, outer in zip(blocks, layers[0::2], layers[1::2], strict=True):
        x = relu(_add(outer(relu(inner(x))), avg_pool2d(x, 2, 2) if halves else x))
    return x


def _add(a: Tensor, b: Tensor) -> Tensor:
    """dlib's `add_prev`: the smaller one is filled with zeros at the right, at the bottom and in new channels."""
    channels, height, width = (max(m, n) for m, n in zip(a.shape[1:], b.shape[1:], strict=True))

    def filled(x: Tensor) -> Tensor:
        missing = (0, width - x.shape[3], 0, height - x.shape[2], 0, channels - x.shape[1])
        return pad(x, missing) if any(missing) else x

    return filled(a) + filled(b)


def read(data: bytes) -> tuple[list[ConvLayer], Tensor]:
    """Reads the content of dlib's file: the folded layers, in the order they run, and the last matrix `[256, 128]`.

    Raises `UserError` where it holds another network, or is damaged.
    """
    try:
        reader = _Reader(data)
        layers = [_layer(reader, 3, 32, side=7, stride=2, padding=0)]
        channels = 32
        for wide, halves in BLOCKS:
            layers.append(_layer(reader, channels, wide, side=3, stride=1 + halves, padding=1 - halves))
            layers.append(_layer(reader, wide, wide, side=3, stride=1, padding=1))
            channels = wide
        reader.skip_past("fc_2")
        reader.integer(), reader.integer()  # how many come out and go in
        return layers, torch.from_numpy(reader.tensor().reshape(channels, DIMENSIONS).astype(np.float32))
    except ValueError as error:
        raise UserError(f"{FILE} holds another network, or is damaged ({error})") from None


def _layer(reader: _Reader, inwards: int, outwards: int, *, side: int, stride: int, padding: int) -> ConvLayer:
    reader.skip_past("con_4")
    parameters = reader.tensor()
    filters = parameters[:-outwards].reshape(outwards, inwards, side, side)
    reader.skip_past("affine_")
    gamma, beta = reader.tensor().reshape(2, outwards)
    weight = filters * gamma[:, None, None, None]
    bias = parameters[-outwards:] * gamma + beta
    return ConvLayer(
        weight=torch.from_numpy(weight.astype(np.float32)),
        bias=torch.from_numpy(bias.astype(np.float32)),
        stride=stride,
        padding=padding,
    )


def _moved(layer: ConvLayer, device: torch.device) -> ConvLayer:
    weight = layer.weight.to(device, memory_format=torch.channels_last)
    return ConvLayer(weight=weight, bias=layer.bias.to(device), stride=layer.stride, padding=layer.padding)


class _Reader:
    """dlib's serialisation: integers behind a control byte, strings behind their length, tensors behind their shape."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def skip_past(self, name: str) -> None:
        """To the content of the next layer of that name; numbers of ours are never searched, they are read past."""
        tag = bytes([1, len(name)]) + name.encode()
        self._at = self._data.index(tag, self._at) + len(tag)

    def integer(self) -> int:
        control = self._take(1)[0]
        size = control & 0x0F
        if control & 0x80 or not 1 <= size <= 8:
            raise ValueError(f"no count at byte {self._at - 1}")
        return int.from_bytes(self._take(size), "little")

    def tensor(self) -> NDArray[np.float64]:
        """Version 2, four sizes, float32 in little-endian order; flat."""
        version, *sizes = (self.integer() for _ in range(5))
        if version != 2:
            raise ValueError(f"tensor of version {version}, 2 is expected")
        count = int(np.prod(sizes, dtype=object))
        return np.frombuffer(self._take(4 * count), "<f4").astype(np.float64)

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("it ends too early")
        self._at += count
        return taken
