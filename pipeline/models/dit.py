"""Transformers on latents: DiT, conditioned on a class (2212.09748), and PixArt, on a text (2310.00426, 2403.04692)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.model import Rows, labels_of
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, parts
from pipeline.models.config import DTYPES, ModelConfig, refuse_distilled_guidance
from pipeline.models.few_step import bounded_at_0
from pipeline.models.folder import read_json
from pipeline.models.loading import INDEX, hash_of, load_pipeline
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.schedule import levels_of
from pipeline.models.sizes import image_size, latent_grid
from pipeline.models.sketch import Sketch


def sketch_pixart(folder: Path, config: ModelConfig) -> Sketch:
    """Tells the model from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    refuse_distilled_guidance(folder, config)
    side, network = latent_grid(folder, "transformer")
    trained, patch = network["sample_size"], network["patch_size"]
    size = image_size(folder, config, trained=trained, cell=side, multiple=side * patch)
    return Sketch(
        levels=levels_of(folder),
        size=size,
        shape=(network["in_channels"], size[0] // side, size[1] // side),
        hash=hash_of(folder, config),
    )


def sketch_dit(folder: Path, config: ModelConfig) -> Sketch:
    """Tells the model from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    sketch = sketch_pixart(folder, config)
    side, network = latent_grid(folder, "transformer")
    height, width = sketch.size
    if (trained := side * network["sample_size"]) != height or trained != width:
        raise UserError(
            f"model.size is {height} × {width}; allowed is {trained} × {trained} for {folder}: a DiT knows the places "
            "of one size"
        )
    classes = network["num_embeds_ada_norm"]
    labelled = {"conditioning": "class", "classes": classes, "class_names": names_of(folder, classes)}
    return Sketch(**vars(sketch) | labelled)


def names_of(folder: Path, classes: int) -> tuple[str, ...] | None:
    """The names of the first classes, as many as model_index.json gives. Raises `UserError` where it leaves one out."""
    named = read_json(folder / INDEX).get("id2label") or {}
    labels = [str(label) for label in range(len(named))]
    if len(named) > classes or set(named) != set(labels):
        raise UserError(f"{folder / INDEX}: id2label does not count 0, 1, 2 … up to at most {classes - 1}")
    return tuple(named[label] for label in labels) or None


def load_dit(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads the model onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    sketch = sketch_dit(folder, config)
    pipe = load_pipeline(folder, config, device)
    null = sketch.classes  # one more row of the table: "no class"
    assert null is not None

    def embed(rows: Rows) -> Embedding:
        labels = torch.tensor([-1]) if rows is None else labels_of(rows)
        return {"class_labels": torch.where(labels < 0, null, labels).to(device)}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        output: tuple[Tensor] = pipe.transformer(x, timestep, embedding["class_labels"], return_dict=False)
        return output[0]

    return Backbone(
        **parts(sketch, pipe.transformer, pipe, folder, config, device),
        predict=predict,
        embed=embed,
    )


def load_pixart(folder: Path, config: ModelConfig, device: str) -> Backbone:
    """Loads the model onto `device`. Prompts are cut where the pipeline cuts them: at 120 tokens (α), 300 (Σ)."""
    sketch = sketch_pixart(folder, config)
    pipe: Any = load_pipeline(folder, config, device)
    height, width = sketch.size
    dtype = DTYPES[config.dtype]
    resolution, aspect = torch.tensor([[height, width], [height / width, 0.0]]).to(device, dtype)
    sized = pipe.transformer.use_additional_conditions

    def embed(prompt: str | None) -> Embedding:
        hidden, mask, _, _ = pipe.encode_prompt(prompt or "", do_classifier_free_guidance=False, device=device)
        return {"encoder_hidden_states": hidden[0], "encoder_attention_mask": mask[0]}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        own = {"resolution": resolution.expand(len(x), 2), "aspect_ratio": aspect[:1].expand(len(x), 1)}
        output: tuple[Tensor] = pipe.transformer(
            x,
            embedding["encoder_hidden_states"],
            timestep,
            added_cond_kwargs=own if sized else {"resolution": None, "aspect_ratio": None},
            encoder_attention_mask=embedding["encoder_attention_mask"],
            return_dict=False,
        )
        return output[0]

    model = Backbone(
        **parts(sketch, pipe.transformer, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
    )
    return bounded_at_0(model, folder)
