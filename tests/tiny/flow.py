"""Models of rectified flow: Stable Diffusion 3 and Flux."""

from __future__ import annotations

from pathlib import Path

import diffusers

from tests.tiny.parts import SIDE, clip_text, clip_text_pooled, clip_tokenizer, save, seeded, t5_text, t5_tokenizer, vae


def sd3(folder: Path, *, t5: bool = True, vae_scale: int = 2, seed: int = 0) -> Path:
    """Stable Diffusion 3: 16-channel latents, two CLIP encoders, and T5 unless `t5` is false."""
    with seeded(seed):
        first, second, third = clip_tokenizer(), clip_tokenizer(pad_token="!"), t5_tokenizer()
        pipe = diffusers.StableDiffusion3Pipeline(
            transformer=diffusers.SD3Transformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                caption_projection_dim=32,
                joint_attention_dim=80,
                pooled_projection_dim=32 + 48,
                pos_embed_max_size=24,
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae(scale=vae_scale, channels=16, scaling=1.5305, shift=0.0609),
            text_encoder=clip_text_pooled(first, width=32, projection=32),
            tokenizer=first,
            text_encoder_2=clip_text_pooled(second, width=40, projection=48),
            tokenizer_2=second,
            text_encoder_3=t5_text(third, width=80) if t5 else None,
            tokenizer_3=third if t5 else None,
        )
    return save(pipe, folder)


def flux(folder: Path, *, guidance_embeds: bool = True, vae_scale: int = 2, seed: int = 0) -> Path:
    """Flux: 16-channel latents in 2×2 packs; `guidance_embeds` as in dev, false as in schnell.

    The scheduler is dev's in both cases.
    """
    with seeded(seed):
        first, second = clip_tokenizer(), t5_tokenizer()
        pipe = diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
                shift=3.0,
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=4096,
            ),
            vae=vae(scale=vae_scale, channels=16, scaling=0.3611, shift=0.1159),
            text_encoder=clip_text(first),
            tokenizer=first,
            text_encoder_2=t5_text(second, width=40),
            tokenizer_2=second,
            transformer=diffusers.FluxTransformer2DModel(
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=40,
                pooled_projection_dim=32,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(4, 4, 8),
            ),
        )
    return save(pipe, folder)
