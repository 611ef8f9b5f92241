"""Rectified-flow transformers on the latents of a VAE: Stable Diffusion 3 (2403.03206) and Flux."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, parts
from pipeline.models.config import ModelConfig, refuse_distilled_guidance
from pipeline.models.loading import hash_of, load_pipeline
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.schedule import levels_of
from pipeline.models.sizes import image_size, latent_grid
from pipeline.models.sketch import Sketch

FLUX_SIDE, FLUX_PATCH = 128, 2
"""How many cells of latents a side the images had that Flux was trained on, and how many a side it sees as one
token."""
FLUX_GUIDANCE = 3.5
FLUX_WORDS = {True: 512, False: 256}
"""The length to which T5's tokens are padded, with nothing to mask the padding: that of dev, which takes guidance, and
of schnell, which takes none."""


def sketch_sd3(folder: Path, config: ModelConfig) -> Sketch:
    """Tells the model from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    refuse_distilled_guidance(folder, config)
    side, network = latent_grid(folder, "transformer")
    patch, most = network["patch_size"], network["pos_embed_max_size"]
    size = image_size(folder, config, trained=network["sample_size"], cell=side, multiple=side * patch)
    if max(size) > (limit := most * patch * side):
        raise UserError(f"model.size is {size[0]} × {size[1]}; allowed for {folder} are at most {limit} pixels a side")
    return _sketch(folder, config, size=size, side=side, channels=network["in_channels"], patch=patch)


def load_sd3(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads the model onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    sketch = sketch_sd3(folder, config)
    pipe = load_pipeline(folder, config, device)

    def embed(prompt: str | None) -> Embedding:
        hidden, _, pooled, _ = pipe.encode_prompt(
            prompt or "", None, None, device=device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": hidden[0], "pooled_projections": pooled[0]}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        hidden, pooled = embedding["encoder_hidden_states"], embedding["pooled_projections"]
        return pipe.transformer(x, hidden, pooled, timestep, return_dict=False)[0]

    return Backbone(
        **parts(sketch, pipe.transformer, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
    )


def sketch_flux(folder: Path, config: ModelConfig) -> Sketch:
    """Tells the model from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    side, network = latent_grid(folder, "transformer")
    if not network.get("guidance_embeds"):
        refuse_distilled_guidance(folder, config)
    size = image_size(folder, config, trained=FLUX_SIDE, cell=side, multiple=side * FLUX_PATCH)
    channels = network["in_channels"] // FLUX_PATCH**2
    return _sketch(folder, config, size=size, side=side, channels=channels, patch=FLUX_PATCH)


def load_flux(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads the model onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    sketch = sketch_flux(folder, config)
    pipe = load_pipeline(folder, config, device)
    guided = bool(pipe.transformer.config.guidance_embeds)
    guidance = FLUX_GUIDANCE if config.distilled_guidance is None else config.distilled_guidance

    def embed(prompt: str | None) -> Embedding:
        hidden, pooled, _ = pipe.encode_prompt(prompt or "", device=device, max_sequence_length=FLUX_WORDS[guided])
        return {"encoder_hidden_states": hidden[0], "pooled_projections": pooled[0]}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        hidden = embedding["encoder_hidden_states"]
        packed = pixel_unshuffle(x, FLUX_PATCH)
        height, width = packed.shape[2:]
        output = pipe.transformer(
            hidden_states=packed.flatten(2).mT,
            timestep=timestep / 1000,
            guidance=timestep.new_full((len(x),), guidance) if guided else None,
            pooled_projections=embedding["pooled_projections"],
            encoder_hidden_states=hidden,
            txt_ids=timestep.new_zeros(hidden.shape[1], 3),
            img_ids=positions(height, width).to(timestep),
            return_dict=False,
        )[0]
        return pixel_shuffle(output.mT.unflatten(2, (height, width)), FLUX_PATCH)

    return Backbone(
        **parts(sketch, pipe.transformer, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe, words=FLUX_WORDS[guided]),
    )


def positions(height: int, width: int) -> Tensor:
    """The place of each token, `[height·width, 3]`: 0, row and column; those of text are all 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=2).flatten(0, 1)


def _sketch(
    folder: Path, config: ModelConfig, *, size: tuple[int, int], side: int, channels: int, patch: int
) -> Sketch:
    height, width = size[0] // side, size[1] // side
    return Sketch(
        levels=levels_of(folder, (height // patch) * (width // patch)),
        size=size,
        shape=(channels, height, width),
        hash=hash_of(folder, config),
    )
