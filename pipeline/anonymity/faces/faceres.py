"""HSE-FaceRes: a MobileNet whose 1,024 features tell people apart, with heads for age and gender.

The network is that of A. Savchenko, "Efficient facial representations for age, gender and identity recognition in
organizing photo albums using multi-output ConvNet", PeerJ Computer Science 5:e197 (2019), a MobileNet (Howard et al.,
1704.04861) trained on VGGFace2, with heads trained on IMDB-WIKI. Its weights do not ship with doppel: see `converting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu6

from pipeline.anonymity.faces.ported import SameConv, load_converted
from pipeline.diffusion.exactness import exact

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SIDE, DIMENSIONS, AGES = 224, 1024, 100
"""Side of the square that the network sees in pixels, length of its features, and years of age that it knows."""
MEAN = (103.939, 116.779, 123.68)
"""Mean of each channel that is subtracted (BGR, 0 to 255)."""
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""How much each of MobileNet's 13 blocks shrinks the image."""
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels behind each block."""
BATCH = 8
"""Faces in one pass through the network. More are slower on a CPU, because their features leave its cache."""
MALE = 0.6
"""From this output on, the origin's programs call a face male (`is_male` in its `facial_analysis.py`)."""


class FaceResNetwork(nn.Module):
    """MobileNet with two heads; its layers have the names of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = SameConv(3, 32, 3, 2)
        width = 32
        for i, (outputs, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True), 1):
            self.add_module(f"conv_dw_{i}", SameConv(width, width, 3, stride, depthwise=True))
            self.add_module(f"conv_pw_{i}", SameConv(width, outputs, 1))
            width = outputs
        self.feats = nn.Linear(DIMENSIONS, 256)
        self.age_pred, self.gender_pred = nn.Linear(256, AGES), nn.Linear(256, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps `pixels [B, 3, 224, 224]`, BGR minus `MEAN`, to features and what the heads make of them.

        These are the features `[B, 1024]`, each in [0, 6], the probability of each year of age `[B, 100]`, and that of
        being male `[B]`.
        """
        x = relu6(self.conv1(pixels), inplace=True)
        for i in range(1, len(WIDTHS) + 1):
            for kind in ("dw", "pw"):
                x = relu6(self.get_submodule(f"conv_{kind}_{i}")(x), inplace=True)
        features = x.mean((2, 3))
        hidden = self.feats(features).relu()
        return features, self.age_pred(hidden).softmax(1), self.gender_pred(hidden)[:, 0].sigmoid()


@dataclass(frozen=True, kw_only=True)
class AgeGender:
    """What the network thinks of N faces."""

    age: NDArray[np.float32]
    """`[N]`: years, the mean of the two likeliest weighted by their probabilities, as the origin's programs do."""
    male: NDArray[np.bool_]
    """`[N]`: whether it takes the face for a man's; the network knows nothing else."""


class FaceRes:
    """The network as a recogniser, and as a judge of age and gender. `weights` is the sha256 of the file."""

    name = "faceres"
    threshold: float | None = None
    side = SIDE

    def __init__(self, network: FaceResNetwork, *, weights: str, device: str = "cpu") -> None:
        self.weights, self.device = weights, device
        self.network = network.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)

    @classmethod
    def load(cls, *, device: str = "cpu") -> Self:
        """Loads the converted weights from deepface's folder. Raises `UserError` where they are missing or damaged."""
        network = FaceResNetwork()
        return cls(network, weights=load_converted("faceres", network), device=device)

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        """Embeds N squares (N may be 0), each as in `Face.square`, as `[N, 1024]`, not normalised."""
        return self._outputs(crops)[0]

    def age_and_gender(self, crops: Sequence[Pixels8]) -> AgeGender:
        """Guesses age and gender of N faces (N may be 0), each as in `Face.square`."""
        _, years, male = self._outputs(crops)
        which = np.argsort(-years, axis=1)[:, :2]
        likely = np.take_along_axis(years, which, 1)
        return AgeGender(age=1 + (likely * which).sum(1) / likely.sum(1), male=male >= MALE)

    def features(self, pixels: Tensor) -> Tensor:
        """The features `[B, 1024]` of squares `pixels [B, 3, S, S]`, RGB in [-1, 1], of any side S.

        It is differentiable by the pixels. Squares of another side than 224 are resized (bilinear, with antialiasing).
        """
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        features: Tensor = self.network(centred(255 * (pixels + 1) / 2))[0]
        return features

    @torch.inference_mode()
    @exact()
    def _outputs(self, crops: Sequence[Pixels8]) -> tuple[NDArray[np.float32], ...]:
        """Of N faces: features `[N, 1024]`, years `[N, 100]`, male `[N]`."""
        made = [tuple(np.empty((0, *width), np.float32) for width in ((DIMENSIONS,), (AGES,), ()))]
        for start in range(0, len(crops), BATCH):
            squares = torch.from_numpy(np.stack(crops[start : start + BATCH])).to(self.device)
            outputs = self.network(centred(squares.permute(0, 3, 1, 2).float()))
            made.append(tuple(output.cpu().numpy() for output in outputs))
        return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))


def centred(pixels: Tensor) -> Tensor:
    """What the network sees of squares `[B, 3, 224, 224]`, RGB in [0, 255]: BGR minus `MEAN`."""
    return pixels.flip(1) - torch.tensor(MEAN, device=pixels.device, dtype=pixels.dtype)[:, None, None]
