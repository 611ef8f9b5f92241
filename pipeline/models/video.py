"""AnimateDiff: Stable Diffusion 1.x with layers between that let each place see itself in all frames (2307.04725)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.backbone import Backbone, parts
from pipeline.models.config import ModelConfig
from pipeline.models.folder import read_json
from pipeline.models.latent import sketch_latent
from pipeline.models.loading import load_pipeline
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.sketch import Sketch

TRAINED_FRAMES = 16
"""How many frames all motion modules were trained with that were published; their tables of positions are often
longer."""


@dataclass(frozen=True, kw_only=True)
class VideoSketch(Sketch):
    """A model of clips without its weights, as `OfClips` says: pixels are `[B, 3, F, H, W]`, z is `[B, C, F, h, w]`.

    `shape` is `(C, F, h, w)`, for the F of its training.
    """

    frames: int
    most_frames: int


@dataclass(frozen=True, kw_only=True)
class VideoBackbone(VideoSketch, Backbone):
    """A model of clips: a row is a window of frames, under one condition; the autoencoder sees frame by frame."""

    def encode(self, pixels: Tensor) -> Tensor:
        return unfolded(super().encode(folded(pixels)), len(pixels))

    def decode(self, z: Tensor) -> Tensor:
        return unfolded(super().decode(folded(z)), len(z))


def folded(clips: Tensor) -> Tensor:
    """Lays the frames of clips one after the other: `[B, C, F, H, W]` → `[B·F, C, H, W]`."""
    return clips.transpose(1, 2).flatten(0, 1)


def unfolded(frames: Tensor, clips: int) -> Tensor:
    """Puts frames together to clips again: `[B·F, C, H, W]` → `[B, C, F, H, W]`, with B = `clips`."""
    return frames.unflatten(0, (clips, -1)).transpose(1, 2)


def sketch_video(folder: Path, config: ModelConfig) -> VideoSketch:
    """Tells the model from its folder alone.

    Raises `UserError` for a cascade (no stage above sees frames together), and guidance told to the network.
    """
    if config.upscalers:
        raise UserError(f"model.upscalers: {folder} is a model of clips, and they enlarge single images")
    image, unet = sketch_latent(folder, config), read_json(folder / "unet" / "config.json")
    if unet.get("time_cond_proj_dim") is not None:
        raise UserError(f"{folder}: unet/config.json: time_cond_proj_dim is given; known are networks without")
    if "motion_max_seq_length" not in unet:  # a UNet of images, with the motion modules beside it
        unet = read_json(folder / "motion_adapter" / "config.json")
    most = unet["motion_max_seq_length"]
    frames = min(TRAINED_FRAMES, most)
    channels, *grid = image.shape
    own = {"shape": (channels, frames, *grid), "attention": False, "frames": frames, "most_frames": most}
    return VideoSketch(**vars(image) | own)


def load_video(folder: Path, config: ModelConfig, device: str) -> VideoBackbone:
    """Loads the model onto `device`. Raises `UserError` for what is missing or unknown in its folder."""
    sketch = sketch_video(folder, config)
    pipe: Any = load_pipeline(folder, config, device)

    def embed(prompt: str | None) -> Embedding:
        hidden, _ = pipe.encode_prompt(prompt or "", device, 1, False)
        return {"encoder_hidden_states": hidden[0]}

    def predict(x: Tensor, timestep: Tensor, embedding: Embedding) -> Tensor:
        each_frame = embedding["encoder_hidden_states"].repeat_interleave(x.shape[2], 0)
        output: Tensor = pipe.unet(x, timestep, each_frame, return_dict=False)[0]
        return output

    return VideoBackbone(
        **parts(sketch, pipe.unet, pipe, folder, config, device),
        predict=predict,
        embed=Prompts(torch.inference_mode()(embed), pipe=pipe),
    )
