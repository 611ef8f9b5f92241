"""The parts that a training begins with: the codec of the data, the schedule of the levels, and the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, SpaceToDepth, fit_linear_patch
from training.denoiser.config import GROUPS, DenoiserConfig
from training.denoiser.loss import to_training_range

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel

    from training.data.cache import PixelCache

CODEC_SAMPLE = 4096
"""The patch codec is fitted on so many images."""


def check_labels(config: DenoiserConfig, cache: PixelCache, name: str) -> None:
    """Raises `UserError` where a class-conditional model gets images without one of its labels; `name` is theirs."""
    if config.classes is None:
        return
    low, high = int(cache.labels.min()), int(cache.labels.max())
    if low < 0:
        missing = int((cache.labels < 0).sum())
        raise UserError(
            f"{name}: {missing} of {len(cache)} samples have no label, and classes is {config.classes}{cache.unread()}"
        )
    if high >= config.classes:
        raise UserError(
            f"{name}: a label is {high}; classes is {config.classes}, so 0 to {config.classes - 1} are allowed"
        )


def fit_codec(config: DenoiserConfig, cache: PixelCache) -> PatchCodec:
    """The codec of the recipe, fitted to the data where it has parameters."""
    if config.codec.components is None:
        return SpaceToDepth(patch=config.codec.patch)
    rows = torch.randperm(len(cache), generator=torch.Generator().manual_seed(config.seed))[:CODEC_SAMPLE].numpy()
    pixels = to_training_range(torch.from_numpy(cache.pixels[rows]).permute(0, 3, 1, 2), config.channels)
    return fit_linear_patch(pixels, patch=config.codec.patch, components=config.codec.components)


def build_scheduler(config: DenoiserConfig) -> DDPMScheduler:
    """The schedule of the levels, as diffusers stores it."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=config.diffusion.steps,
        beta_schedule=config.diffusion.schedule,
        prediction_type=config.diffusion.prediction,
        rescale_betas_zero_snr=config.diffusion.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=config.codec.kind != "linear_patch",
    )


def build_network(config: DenoiserConfig, codec: PatchCodec) -> UNet2DModel:
    """The U-Net of the recipe with random weights, which the recipe's seed decides."""
    from diffusers import UNet2DModel

    net = config.network
    grid = [side // codec.patch for side in config.size]
    depth = config.codec.components or config.channels * codec.patch**2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = UNet2DModel(
            sample_size=grid[0] if grid[0] == grid[1] else tuple(grid),
            in_channels=depth,
            out_channels=depth,
            layers_per_block=net.layers,
            block_out_channels=net.channels,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in net.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(net.attention)),
            attention_head_dim=net.head_dim,
            resnet_time_scale_shift="scale_shift" if net.time_scale_shift else "default",
            # a group of one channel would subtract what the embedding of time and class adds to that channel
            norm_num_groups=min(GROUPS, min(net.channels) // 2),
            num_class_embeds=config.classes + (config.class_dropout > 0) if config.classes else None,
        )
    if net.zero_init:
        start_at_zero(network)
    return network


LAST = ("conv2", "to_out.0", "conv_out")
"""The names of the layers that a residual block, an attention and the network itself end with."""


def start_at_zero(network: nn.Module) -> None:
    """Sets the last layers to zero, so that at first every residual branch adds nothing, and the output is 0."""
    for name, module in network.named_modules():
        if name.endswith(LAST):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
