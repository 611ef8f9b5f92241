"""Latent models with random weights, in folders as diffusers keeps them: the speed of real ones, and no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.models.loading import quiet

PROMPT = "a photo"


@dataclass(frozen=True, kw_only=True)
class Spec:
    title: str
    side: int
    """Pixels, of the square images that it works on."""
    network: dict[str, Any]
    text: tuple[int, ...]
    """Widths of the text encoders: one makes a Stable Diffusion, two an XL, none a DiT, which takes classes."""
    vae: tuple[int, ...] = (128, 256, 512, 512)

    @property
    def small(self) -> bool:
        return self.vae[0] < 128


SMALL: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": 64,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 16,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 4,
}  # fmt: skip
SMALL_VAE = (16, 32, 32, 32)
SPECS = {
    "small": Spec(title="small Stable Diffusion", side=128, text=(64,), vae=SMALL_VAE, network=SMALL),
    "small_xl": Spec(
        title="small XL", side=128, text=(32, 32), vae=SMALL_VAE,
        network=SMALL | {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 32 + 6 * 16, "use_linear_projection": True,
        },
    ),
    "small_dit": Spec(
        title="small DiT", side=128, text=(), vae=SMALL_VAE,
        network={"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 16, "sample_size": 16},
    ),
    "sd15": Spec(
        title="Stable Diffusion 1.5", side=512, text=(768,),
        network={"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    ),
    "sdxl": Spec(
        title="Stable Diffusion XL", side=1024, text=(768, 1280),
        network={
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
            "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1280 + 6 * 256,
        },
    ),
    "dit": Spec(
        title="DiT-XL/2", side=512, text=(),
        network={"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "sample_size": 64},
    ),
}  # fmt: skip


def build(name: str, folder: Path, dtype: torch.dtype, device: str) -> None:
    """Saves a pipeline with weights drawn on `device`. Text encoders have two layers: they hardly count."""
    spec = SPECS[name]
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="leading",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        # force_upcast: diffusers' XL would encode in float32, whatever the dtype, and no other side of a comparison
        vae = diffusers.AutoencoderKL(
            block_out_channels=spec.vae, layers_per_block=1 if spec.small else 2,
            norm_num_groups=16 if spec.small else 32, force_upcast=False,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        if not spec.text:
            network = diffusers.DiTTransformer2DModel(**spec.network, out_channels=8)
            pipe: Any = diffusers.DiTPipeline(transformer=network, vae=vae, scheduler=scheduler)
        else:
            parts = {"vae": vae, "scheduler": scheduler, "unet": diffusers.UNet2DConditionModel(**spec.network)}
            pipe = with_text(parts, spec.text)
    with quiet():
        pipe.to(dtype).save_pretrained(folder)


def with_text(parts: dict[str, Any], widths: tuple[int, ...]) -> Any:
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "photo": 3}
    tokens = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        model_max_length=77,
    )  # fmt: skip

    def settings(width: int) -> Any:
        return transformers.CLIPTextConfig(
            vocab_size=4, hidden_size=width, intermediate_size=width, num_hidden_layers=2, num_attention_heads=8,
            projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip

    parts |= {"tokenizer": tokenizer, "text_encoder": transformers.CLIPTextModel(settings(widths[0]))}
    if len(widths) == 2:
        second = transformers.CLIPTextModelWithProjection(settings(widths[1]))
        return diffusers.StableDiffusionXLPipeline(
            **parts, text_encoder_2=second, tokenizer_2=tokenizer, add_watermarker=False
        )
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
