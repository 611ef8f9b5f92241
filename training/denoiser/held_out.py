"""The loss on images that are not trained on: one measure for all recipes, with the same noise every time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoisers import per_row, to_x0
from pipeline.diffusion.levels import Levels
from pipeline.models.codec import PatchCodec
from training.data.cache import PixelCache, build_cache
from training.data.images import Images, same_classes
from training.data.overlap import marks_of, refuse_overlap
from training.denoiser.config import DenoiserConfig
from training.denoiser.loss import predict, to_training_range
from training.denoiser.network import check_labels

IMAGES, BATCH, LEVELS = 512, 128, 64
"""How many images are used (the first of the split), images in a batch, and how many values of t they are spread
over."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Images in the codec's space `[N, …]` with labels, levels and noise, all on the training's device."""

    config: DenoiserConfig
    levels: Levels
    x0: Tensor
    labels: Tensor | None
    sigma: Tensor
    noise: Tensor

    @torch.no_grad()
    def loss(self, network: nn.Module) -> float:
        """The mean of `‖D(x0 + σ·noise; σ) − x0‖²·(1 + σ²)/σ²` over images and values, with t uniform.

        This is the error of v, whatever the network predicts. On data of unit variance it is 1 for an estimate that
        says nothing. It can be compared between recipes with the same codec.
        """
        sums = []
        for i in range(0, len(self.x0), BATCH):
            part = slice(i, i + BATCH)
            x0, sigma, noise = self.x0[part], self.sigma[part], self.noise[part]
            labels = None if self.labels is None else self.labels[part]
            output, _ = predict(network, self.levels, self.config, x0, sigma, noise, labels)
            x = x0 + per_row(sigma, x0) * noise
            error = (to_x0(output, x, sigma, self.config.diffusion.prediction) - x0).square().flatten(1).mean(1)
            sums.append((error.double() * (1 + sigma**2) / sigma**2).sum())
        return float(torch.stack(sums).sum() / len(self.x0))


def open_validation(
    config: DenoiserConfig, trained_on: PixelCache, codec: PatchCodec, levels: Levels, device: torch.device
) -> HeldOut | None:
    """The validation images, encoded, with their noise; None where the recipe names none.

    Raises `UserError` where one of them is trained on, and where a class-conditional model gets one without a label.
    """
    if config.validation is None:
        return None
    cache = build_cache(config.validation, Path(config.output) / "validation", config.size, config.rules)
    check_labels(config, cache, "validation")
    same_classes({"data": trained_on.facts["label_names"], "validation": cache.facts["label_names"]})
    labels = torch.from_numpy(cache.labels.copy())
    images = Images(keys=tuple(cache.keys), pixels=cache.images(), labels=labels)
    marks = marks_of(trained_on.keys, trained_on.images())
    refuse_overlap("this denoiser", marks, {"validation": images}, config.near_copies)
    pixels = to_training_range(images.pixels[:IMAGES].to(device), config.channels)
    x0 = codec.encode(pixels)
    t = (torch.arange(len(x0), dtype=torch.float64, device=device) % LEVELS + 0.5) / LEVELS
    given = None if config.classes is None else labels[:IMAGES].to(device)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(device)
    return HeldOut(config=config, levels=levels, x0=x0, labels=given, sigma=levels.sigma(t), noise=noise)
