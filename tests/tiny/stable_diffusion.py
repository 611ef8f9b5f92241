"""Stable Diffusion 1.5 and XL, their fast and moving kin, and the x4 upscaler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers

from tests.tiny.parts import SD_BETAS, SD_DDIM, UNET, clip_text, clip_text_pooled, clip_tokenizer, save, seeded, vae


def _sd_with(scheduler: Any, folder: Path, *, seed: int, vae_scale: int) -> Path:
    with seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.StableDiffusionPipeline(
            vae=vae(scale=vae_scale),
            text_encoder=clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**UNET, cross_attention_dim=32),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return save(pipe, folder)


def sd(
    folder: Path,
    *,
    vae_scale: int = 2,
    prediction_type: str = "epsilon",
    set_alpha_to_one: bool = False,
    seed: int = 0,
) -> Path:
    """Stable Diffusion 1.5: `StableDiffusionPipeline` with DDIM."""
    settings = {**SD_DDIM, "set_alpha_to_one": set_alpha_to_one, "prediction_type": prediction_type}
    return _sd_with(diffusers.DDIMScheduler(**settings), folder, seed=seed, vae_scale=vae_scale)


def turbo(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """SD-Turbo: `sd` with Euler steps and trailing spacing."""
    scheduler = diffusers.EulerDiscreteScheduler(**SD_BETAS, steps_offset=1, timestep_spacing="trailing")
    return _sd_with(scheduler, folder, seed=seed, vae_scale=vae_scale)


def lcm(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """LCM Dreamshaper v7: the UNet is told the guidance scale."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.LatentConsistencyModelPipeline(
            vae=vae(scale=vae_scale),
            text_encoder=clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**UNET, cross_attention_dim=32, time_cond_proj_dim=24),
            scheduler=diffusers.LCMScheduler(
                **SD_BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=0, original_inference_steps=50
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return save(pipe, folder)


def animatediff(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """AnimateDiff v1.5: `sd` with motion modules for up to 32 frames, DDIM on the linear schedule."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.AnimateDiffPipeline(
            vae=vae(scale=vae_scale),
            text_encoder=clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**UNET, cross_attention_dim=32),
            motion_adapter=diffusers.MotionAdapter(
                block_out_channels=(32, 64),
                motion_layers_per_block=1,
                motion_num_attention_heads=4,
                motion_norm_num_groups=8,
                motion_max_seq_length=32,
            ),
            scheduler=diffusers.DDIMScheduler(**{**SD_DDIM, "beta_schedule": "linear"}),
        )
    return save(pipe, folder)


def upscaler(folder: Path, *, seed: int = 0) -> Path:
    """Stable Diffusion x4: 16×16 pixels beside 16×16 latents → 64×64 pixels; the noise level is a class."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.StableDiffusionUpscalePipeline(
            vae=vae(scale=4, scaling=0.08333),
            text_encoder=clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**UNET, in_channels=7, cross_attention_dim=32, num_class_embeds=1000),
            low_res_scheduler=diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear"),
            scheduler=diffusers.DDIMScheduler(
                beta_start=0.0001,
                beta_end=0.02,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
                prediction_type="v_prediction",
            ),
            max_noise_level=350,
        )
    return save(pipe, folder)


def sdxl(folder: Path, *, refiner: bool = False, vae_scale: int = 2, seed: int = 0) -> Path:
    """SDXL: text 32 + 40 = 72 wide, 48 pooled, six size numbers; the refiner has the second encoder and five numbers.

    The refiner is saved as `StableDiffusionXLImg2ImgPipeline`, as its checkpoint is.
    """
    numbers, context = (5, 40) if refiner else (6, 72)
    with seeded(seed):
        first, second = clip_tokenizer(), clip_tokenizer(pad_token="!")
        parts = {
            "vae": vae(scale=vae_scale, scaling=0.13025),
            "text_encoder": None if refiner else clip_text(first),
            "tokenizer": None if refiner else first,
            "text_encoder_2": clip_text_pooled(second, width=40, projection=48),
            "tokenizer_2": second,
            "unet": diffusers.UNet2DConditionModel(
                **UNET,
                cross_attention_dim=context,
                transformer_layers_per_block=(1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=48 + 8 * numbers,
            ),
            "scheduler": diffusers.EulerDiscreteScheduler(**SD_BETAS, steps_offset=1, timestep_spacing="leading"),
            "add_watermarker": False,
        }
        if refiner:
            pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
                **parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False
            )
        else:
            pipe = diffusers.StableDiffusionXLPipeline(**parts)
    return save(pipe, folder)
