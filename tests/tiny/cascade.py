"""DeepFloyd IF: pixels, then more pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers

from tests.tiny.parts import SIDE, save, seeded, t5_text, t5_tokenizer

PIXEL_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "out_channels": 6,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 32,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}


def _deepfloyd_scheduler(*, variance_type: str, sample_max_value: float) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type=variance_type,
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=sample_max_value,
    )


def deepfloyd(folder: Path, *, variance_type: str = "learned_range", seed: int = 0) -> Path:
    """DeepFloyd IF, stage I: 16×16 pixels; the UNet returns mean and variance whatever `variance_type` is."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        pipe = diffusers.IFPipeline(
            tokenizer=tokenizer,
            text_encoder=t5_text(tokenizer, width=32),
            unet=diffusers.UNet2DConditionModel(**PIXEL_UNET, sample_size=SIDE, in_channels=3),
            scheduler=_deepfloyd_scheduler(variance_type=variance_type, sample_max_value=1.5),
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            requires_safety_checker=False,
        )
    return save(pipe, folder)


def deepfloyd_upscaler(folder: Path, *, variance_type: str = "learned_range", seed: int = 0) -> Path:
    """DeepFloyd IF, stage II: 16×16 pixels → 32×32; the noise level of the small image is a second time."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        pipe = diffusers.IFSuperResolutionPipeline(
            tokenizer=tokenizer,
            text_encoder=t5_text(tokenizer, width=32),
            unet=diffusers.UNet2DConditionModel(
                **PIXEL_UNET, sample_size=2 * SIDE, in_channels=6, class_embed_type="timestep"
            ),
            scheduler=_deepfloyd_scheduler(variance_type=variance_type, sample_max_value=1.0),
            image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            requires_safety_checker=False,
        )
    return save(pipe, folder)
