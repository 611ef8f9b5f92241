"""What stands beside a pipeline: a judge, a LoRA file, a learned word."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import save_file

from tests.tiny.parts import clip_text_settings, clip_tokenizer, seeded


def clip(folder: Path, *, seed: int = 0) -> Path:
    """`CLIPModel` and `CLIPProcessor` in one folder: 32×32 pixels, 24 shared features."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        config = transformers.CLIPConfig(
            text_config=clip_text_settings(tokenizer, width=32, projection=24),
            vision_config={
                "hidden_size": 40,
                "intermediate_size": 80,
                "projection_dim": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 32,
                "patch_size": 8,
            },
            projection_dim=24,
        )
        model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(image_processor=pixels, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def lora(folder: Path, pipeline_folder: Path, *, rank: int = 2, seed: int = 0) -> Path:
    """A LoRA file for the UNet of `sd`; its update is not zero, as an untrained one would be. Returns the file."""
    from peft import LoraConfig, get_peft_model_state_dict

    unet = diffusers.UNet2DConditionModel.from_pretrained(pipeline_folder, subfolder="unet", local_files_only=True)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    layers = diffusers.utils.convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    generator = torch.Generator().manual_seed(seed)
    layers = {name: 0.5 * torch.randn(weight.shape, generator=generator) for name, weight in layers.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
    return folder / "pytorch_lora_weights.safetensors"


def textual_inversion(folder: Path, token: str, dim: int, *, vectors: int = 1, seed: int = 0) -> Path:
    """`learned_embeds.safetensors`: `token` → (dim,), or (vectors, dim) for more than one. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = torch.randn(vectors, dim, generator=torch.Generator().manual_seed(seed))
    path = folder / "learned_embeds.safetensors"
    save_file({token: learned[0].clone() if vectors == 1 else learned}, path)
    return path
