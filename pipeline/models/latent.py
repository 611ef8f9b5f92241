"""Stable Diffusion 1.x and 2.x: a UNet on the latents of a VAE, conditioned on hidden states of CLIP (2112.10752)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.backbone import Backbone, parts
from pipeline.models.config import ModelConfig, refuse_distilled_guidance
from pipeline.models.few_step import distilled, width_of
from pipeline.models.loading import hash_of, load_pipeline
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.schedule import levels_of
from pipeline.models.sizes import image_size, latent_grid
from pipeline.models.sketch import Sketch


def sketch_latent(folder: Path, config: ModelConfig) -> Sketch:
    """Tells the model from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    if width_of(folder) is None:
        refuse_distilled_guidance(folder, config)
    side, unet = latent_grid(folder, "unet")
    size = image_size(folder, config, trained=unet["sample_size"], cell=side, multiple=side)
    return Sketch(
        levels=levels_of(folder),
        size=size,
        shape=(unet["in_channels"], size[0] // side, size[1] // side),
        attention=True,
        hash=hash_of(folder, config),
    )


def load_latent(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads the model onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    sketch = sketch_latent(folder, config)
    pipe = load_pipeline(folder, config, device)

    def embed(prompt: str | None) -> Embedding:
        hidden, _ = pipe.encode_prompt(prompt or "", device, 1, False)
        return {"encoder_hidden_states": hidden[0]}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        told = embedding.get("timestep_cond")
        return pipe.unet(x, timestep, embedding["encoder_hidden_states"], timestep_cond=told, return_dict=False)[0]

    model = Backbone(
        **parts(sketch, pipe.unet, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
        tokenizer=pipe.tokenizer,
    )
    return distilled(model, folder, config, device)
