"""One batch of a training: which images, at which noise, and what the network should say about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.levels import Levels
from pipeline.models.codec import PatchCodec
from pipeline.models.pixel import luma
from training.denoiser.config import DenoiserConfig, DiffusionConfig

if TYPE_CHECKING:
    from training.denoiser.resident import ResidentImages


def draw_batch(
    images: ResidentImages, config: DenoiserConfig, rng: torch.Generator, count: int
) -> tuple[Tensor, Tensor | None]:
    """Draws random rows: pixels `[count, C, H, W]` in [-1, 1] and labels `[count]`, on the device of `rng`.

    A fraction `class_dropout` of the labels is replaced by "no class".
    """
    rows = torch.randint(len(images), (count,), generator=rng, device=rng.device)
    pixels = to_training_range(images.pixels(rows), config.channels)
    if config.flip:
        mirrored = torch.rand(count, generator=rng, device=rng.device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if config.classes is None:
        return pixels, None
    labels = images.labels[rows]
    dropped = torch.rand(count, generator=rng, device=rng.device) < config.class_dropout
    return pixels, torch.where(dropped, config.classes, labels)


def to_training_range(images: Tensor, channels: int) -> Tensor:
    """Turns uint8 `[B, 3, H, W]` into float `[B, channels, H, W]` in [-1, 1], as the finished model's `encode` does."""
    pixels = images.float() / 127.5 - 1
    return luma(pixels) if channels == 1 else pixels


def draw_sigmas(config: DiffusionConfig, levels: Levels, rng: torch.Generator, count: int) -> Tensor:
    """Draws the levels of a batch, σ float64 `[count]`, within those of the schedule: t uniform, or ln σ normal."""
    device = rng.device
    if config.lognormal is None:
        t = torch.randint(config.steps, (count,), generator=rng, device=device)
        return levels.sigma((t + 1).double() / config.steps)
    drawn = torch.randn(count, generator=rng, device=device, dtype=torch.float64)
    sigma = torch.exp(config.lognormal.mean + config.lognormal.std * drawn)
    ends = torch.tensor([1 / config.steps, 1.0], dtype=torch.float64, device=device)
    return sigma.clamp(*levels.sigma(ends))


def denoising_loss(
    network: nn.Module,
    codec: PatchCodec,
    levels: Levels,
    config: DenoiserConfig,
    rng: torch.Generator,
    pixels: Tensor,
    labels: Tensor | None,
) -> Tensor:
    """The mean squared error of the prediction (2006.11239, eq. 14; for v: 2202.00512); all tensors are on one device.

    On data of unit variance, such as patch latents, the error of v is EDM's loss. There input, output and skip are
    scaled by 1/√(1+σ²), −σ/√(1+σ²) and 1/(1+σ²), and each level is weighted such that its error is 1 at the start
    (2206.00364, eq. 7 and 8 and table 1, with σ_data = 1).
    """
    x0 = codec.encode(pixels)
    sigma = draw_sigmas(config.diffusion, levels, rng, len(x0))
    noise = torch.randn(x0.shape, generator=rng, device=rng.device)
    output, target = predict(network, levels, config, x0, sigma, noise, labels)
    return (output - target).square().mean()


def predict(
    network: nn.Module,
    levels: Levels,
    config: DenoiserConfig,
    x0: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What the network says of `x0 + sigma·noise`, and what it should say: ε or v, float32 `[B, …]`."""
    scale, s = per_row(levels.scale(sigma), x0), per_row(sigma, x0)
    target = noise if config.diffusion.prediction == "epsilon" else scale * (noise - s * x0)
    given = scale * (x0 + s * noise)
    if config.channels_last:
        given = given.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=config.optimizer.bf16):
        output = network(given, levels.timestep(sigma).float(), class_labels=labels).sample
    return output.float(), target
