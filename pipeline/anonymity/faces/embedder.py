"""A small face recogniser of our own, for attacks that owe nothing to the gate's recogniser.

A research demonstration, trained by `scripts/train_face_embedder.py` on the photographs of LFW's training people and
on nothing else. What it can do on people it never saw stands in its card and in `scripts/evidence/recognisers.json`.
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
BATCH = 64


class EmbedderConfig(Section):
    """Shape of the network; the grid halves at the stem and at every stage but the first."""

    size: PositiveInt = 48
    """Side in pixels of what the network sees; a multiple of 2^stages. The face of a 64 px photograph has about 45."""
    widths: tuple[PositiveInt, ...] = (32, 64, 128, 160)
    depths: tuple[PositiveInt, ...] = (1, 2, 2, 1)
    dimensions: PositiveInt = 128

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
    """Two convolutions and a way around them (He et al. 2016)."""

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
        return relu(self.around(x) + self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))


class FaceNetwork(nn.Module):
    """`[B, 3, size, size]` RGB in [-1, 1] → `[B, dimensions]`, not normalised. 1.14 M parameters by default.

    Each channel is summed over the face with weights of its own (Chen et al., MobileFaceNets, 1804.07573): a mean
    would forget where on the face a feature was seen.
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
        self._network = network.eval().to(device).to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, folder: Path | None = None, *, device: str = "cpu") -> SmallEmbedder:
        """From `folder` (by default what ships with the package). Raises `UserError` where it holds no embedder."""
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
        """uint8 `[H, W, 3]` RGB crops of any size → `[N, 128]`, not normalised; N may be 0."""
        made = [self._forward(crops[i : i + BATCH]) for i in range(0, len(crops), BATCH)]
        return np.concatenate([np.empty((0, self.config.dimensions), np.float32), *made])

    def _forward(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        pixels = network_pixels(crops, self.config.size).to(self._device, memory_format=torch.channels_last)
        both = self._network(pixels) + self._network(pixels.flip(3))
        return both.cpu().numpy()


def network_pixels(crops: Sequence[Pixels8], size: int) -> Tensor:
    """uint8 RGB crops of any size → `[N, 3, size, size]` in [-1, 1], bicubic with antialiasing."""
    how = Image.Resampling.BICUBIC
    resized = np.stack([np.asarray(Image.fromarray(crop).resize((size, size), how)) for crop in crops])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_embedder(network: FaceNetwork, config: EmbedderConfig, folder: Path) -> None:
    """In half precision: `config.json` and `model.safetensors`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(config.model_dump(), indent=2) + "\n")


def angular_margin(cosines: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Cosines `[B, classes]` with cos(θ + margin) for cos θ at each row's label `[B]` (ArcFace, 1801.07698, eq. 3).

    Beyond θ + margin = π, where the cosine would rise again, it falls on linearly. `margin` in radians.
    """
    own = cosines.gather(1, labels[:, None])
    angle = own.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    harder = torch.where(angle + margin < math.pi, (angle + margin).cos(), own - margin * math.sin(margin))
    return cosines.scatter(1, labels[:, None], harder)
