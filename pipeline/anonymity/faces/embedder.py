"""A small face recogniser of our own, for attacks that share nothing with the gate's recognisers.

It is a research demonstration, trained by `scripts/train_face_embedder.py` only on photographs of LFW's training
people. Its card and `scripts/evidence/recognisers.json` say how well it does on people it has never seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import PositiveInt, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn.functional import relu

from pipeline.anonymity.faces.weights import digest
from pipeline.assets import ROOT
from pipeline.diffusion.exactness import exact
from pipeline.errors import UserError
from pipeline.section import Section

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

CONFIG, TENSORS = "config.json", "model.safetensors"
"""The two files of an embedder's folder."""
BATCH = 64
"""Faces in one pass through the network."""


class EmbedderConfig(Section):
    """The shape of the network. The grid of features is halved by the stem and by every stage but the first."""

    size: PositiveInt = 48
    """Side in pixels of what the network sees; a multiple of 2^stages. A face in a photograph of 64 px is about 45 px
    wide."""
    widths: tuple[PositiveInt, ...] = (32, 64, 128, 160)
    """Channels of each stage."""
    depths: tuple[PositiveInt, ...] = (1, 2, 2, 1)
    """Residual blocks of each stage."""
    dimensions: PositiveInt = 128
    """Length of an embedding."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"{len(self.widths)} widths and {len(self.depths)} depths; one of each per stage")
        if self.size % 2 ** len(self.widths):
            raise ValueError(
                f"size is {self.size}; a multiple of {2 ** len(self.widths)} halves {len(self.widths)} times"
            )
        return self


class Block(nn.Module):
    """A residual block: two convolutions and a way around them (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        return relu(self.around(x) + self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))


class FaceNetwork(nn.Module):
    """Maps RGB `[B, 3, size, size]` in [-1, 1] to `[B, dimensions]`, not normalised; 1.14 M parameters by default.

    Each channel is summed over the face with weights of its own (Chen et al., MobileFaceNets, 1804.07573), because a
    mean would forget where on the face a feature was seen.
    """

    def __init__(self, config: EmbedderConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        width, side = config.widths[0], config.size // 2 ** len(config.widths)
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        for stage, (outputs, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for i in range(depth):
                blocks.append(Block(width, outputs, 2 if stage and not i else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.places = nn.Parameter(torch.full((width, side, side), 1 / side**2))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, config.dimensions, bias=False)
        self.norm = nn.BatchNorm1d(config.dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeds `pixels [B, 3, size, size]`, RGB in [-1, 1], as `[B, dimensions]`."""
        features = (self.blocks(self.stem(pixels)) * self.places).sum((2, 3))
        return self.norm(self.linear(self.dropout(features)).float())


class SmallEmbedder:
    """The trained network as a recogniser; a face and its mirror image have the same embedding.

    `weights` is the sha256 over the network's two files.
    """

    name = "small"
    threshold: float | None = None

    def __init__(self, network: FaceNetwork, config: EmbedderConfig, *, weights: str, device: str = "cpu") -> None:
        self.config, self.weights, self._device = config, weights, device
        self.network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, folder: Path | None = None, *, device: str = "cpu") -> SmallEmbedder:
        """Loads the network from `folder`, by default the one that ships with the package, to `device`.

        Raises `UserError` where the folder holds no embedder.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = folder or ROOT / "face_embedder"
        try:
            config = EmbedderConfig.model_validate_json((folder / CONFIG).read_bytes())
            network = FaceNetwork(config)
            network.load_state_dict({name: t.float() for name, t in load_file(folder / TENSORS).items()})
        except (OSError, ValidationError, SafetensorError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise UserError(f"recogniser small: {folder} holds no face embedder ({why[:160]})") from None
        return cls(network, config, weights=digest([folder / CONFIG, folder / TENSORS]), device=device)

    @torch.inference_mode()
    @exact()
    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds uint8 RGB crops `[H, W, 3]` of any size as `[N, 128]`, not normalised; N may be 0."""
        made = [self._forward(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, self.config.dimensions), np.float32), *made])

    @property
    def side(self) -> int:
        """Side in pixels of what the network sees."""
        return self.config.size

    def features(self, pixels: Tensor) -> Tensor:
        """Embeds faces `[B, 3, side, side]`, RGB in [-1, 1], as `[B, 128]`; differentiable by the pixels."""
        both: Tensor = self.network(pixels) + self.network(pixels.flip(3))
        return both

    def _forward(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        pixels = network_pixels(crops, self.config.size).to(self._device, memory_format=torch.channels_last)
        return self.features(pixels).cpu().numpy()


def network_pixels(crops: Sequence[Pixels8], size: int) -> Tensor:
    """Resizes uint8 RGB crops of any size to `[N, 3, size, size]` in [-1, 1] (bicubic with antialiasing)."""
    how = Image.Resampling.BICUBIC
    resized = np.stack([np.asarray(Image.fromarray(crop).resize((size, size), how)) for crop in crops])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_embedder(network: FaceNetwork, config: EmbedderConfig, folder: Path) -> None:
    """Writes `config.json` and, in half precision, `model.safetensors` into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(config.model_dump(), indent=2) + "\n")


def angular_margin(cosines: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Adds an angle to the right class: cos(θ + margin) replaces cos θ (ArcFace, 1801.07698, eq. 3).

    Takes cosines `[B, classes]`, labels `[B]`, and `margin` in radians. Where θ + margin exceeds π and the cosine would
    rise again, it goes on falling linearly.
    """
    own = cosines.gather(1, labels[:, None])
    angle = own.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    harder = torch.where(angle + margin < math.pi, (angle + margin).cos(), own - margin * math.sin(margin))
    return cosines.scatter(1, labels[:, None], harder)
