"""Stable Diffusion XL and its refiner: two text encoders, and the size of the image as a condition (2307.01952)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, parts
from pipeline.models.config import ModelConfig
from pipeline.models.few_step import distilled
from pipeline.models.latent import sketch_latent
from pipeline.models.loading import load_pipeline
from pipeline.models.prompts import Embedding, Prompts

SCORE, UNCONDITIONAL_SCORE = 6.0, 2.5
"""The aesthetic scores that the refiner is asked for, diffusers' defaults: a negative prompt, too, is a prompt here."""


def load_latent_xl(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads the model onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    sketch = sketch_latent(folder, config)
    pipe = load_pipeline(folder, config, device)
    scored = bool(pipe.config.get("requires_aesthetics_score"))
    numbers = (pipe.unet.add_embedding.linear_1.in_features - pipe.text_encoder_2.config.projection_dim) / (
        pipe.unet.config.addition_time_embed_dim
    )
    if numbers != (asked := len(size_numbers(sketch.size, None, scored))):
        raise UserError(
            f"{folder}: the UNet takes {numbers:g} numbers beside the prompt, and requires_aesthetics_score of "
            f"model_index.json, which is {str(scored).lower()}, asks for {asked}"
        )

    def embed(prompt: str | None) -> Embedding:
        hidden, _, pooled, _ = pipe.encode_prompt(prompt or "", device=device, do_classifier_free_guidance=False)
        if prompt is None and pipe.config.force_zeros_for_empty_prompt:
            hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
        numbers = torch.tensor(size_numbers(sketch.size, prompt, scored), device=device)
        return {"encoder_hidden_states": hidden[0], "text_embeds": pooled[0], "time_ids": numbers}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        hidden = embedding["encoder_hidden_states"]
        added = {name: embedding[name] for name in ("text_embeds", "time_ids")}
        told = embedding.get("timestep_cond")
        return pipe.unet(x, timestep, hidden, timestep_cond=told, added_cond_kwargs=added, return_dict=False)[0]

    model = Backbone(
        **parts(sketch, pipe.unet, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
        tokenizer=pipe.tokenizer_2,
    )
    return distilled(model, folder, config, device)


def size_numbers(size: tuple[int, int], prompt: str | None, scored: bool) -> list[float]:
    """The numbers that tell the size: original size, top and left of the crop, then the target size, or a `scored`
    model's aesthetic score.

    The image is asked for as one that was neither scaled nor cropped.
    """
    end = [UNCONDITIONAL_SCORE if prompt is None else SCORE] if scored else size
    return [float(number) for number in (*size, 0, 0, *end)]
