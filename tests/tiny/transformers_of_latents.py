"""DiT and PixArt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers

from tests.tiny.parts import LINEAR_BETAS, SIDE, save, seeded, t5_text, t5_tokenizer, vae

LABELS = ("cat", "dog", "horse", "house")


def dit(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """DiT: `LABELS` are classes 0 to 3 of 1000, because `DiTPipeline` takes 1000 for "no class"."""
    with seeded(seed):
        pipe = diffusers.DiTPipeline(
            transformer=diffusers.DiTTransformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                num_attention_heads=4,
                attention_head_dim=8,
                num_embeds_ada_norm=1000,
                norm_num_groups=8,
            ),
            vae=vae(scale=vae_scale),
            scheduler=diffusers.DDIMScheduler(**LINEAR_BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=0),
            id2label=dict(enumerate(LABELS)),
        )
        # The pipeline forgets to keep the labels that it is given; published folders have them in model_index.json.
        pipe.register_to_config(id2label={str(i): label for i, label in enumerate(LABELS)})
    return save(pipe, folder)


def _pixart_with(pipeline: Any, folder: Path, *, scaling: float, vae_scale: int, seed: int) -> Path:
    with seeded(seed):
        tokenizer = t5_tokenizer()
        pipe = pipeline(
            tokenizer=tokenizer,
            text_encoder=t5_text(tokenizer, width=40),
            vae=vae(scale=vae_scale, scaling=scaling),
            transformer=diffusers.PixArtTransformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                num_attention_heads=4,
                attention_head_dim=8,
                cross_attention_dim=32,
                caption_channels=40,
                norm_num_groups=8,
                use_additional_conditions=False,
            ),
            scheduler=diffusers.DPMSolverMultistepScheduler(**LINEAR_BETAS),
        )
    return save(pipe, folder)


def pixart(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """PixArt-α 512: no size conditions. Call the pipeline with `use_resolution_binning=False`."""
    return _pixart_with(diffusers.PixArtAlphaPipeline, folder, scaling=0.18215, vae_scale=vae_scale, seed=seed)


def pixart_sigma(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """PixArt-Σ. Call the pipeline with `use_resolution_binning=False`."""
    return _pixart_with(diffusers.PixArtSigmaPipeline, folder, scaling=0.13025, vae_scale=vae_scale, seed=seed)
