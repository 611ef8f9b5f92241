"""What all diffusers backbones have in common: VAE (or none), prompts or classes, one network, its way to be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoisers import Denoiser, Prediction, per_row, to_x0
from pipeline.diffusion.editing import AttentionEdit
from pipeline.diffusion.model import Rows
from pipeline.models.attention import following
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.prompts import Embedding, Prompts
from pipeline.models.schedule import prediction_of
from pipeline.models.sketch import Sketch
from pipeline.models.vae import Vae, vae_of

Predict = Callable[[Tensor, Tensor, Embedding], Tensor]
"""A call of the network: `predict(x [B, C, h, w], timestep float32 [B], embedding [B, …]) -> [B, ≥ C, h, w]`, x in the
network's own scale and dtype."""


def unlimited(x0: Tensor) -> Tensor:
    """Leaves an estimate as it is, for networks whose estimates need no limit."""
    return x0


@dataclass(frozen=True, kw_only=True)
class Backbone(Sketch):
    """A model as operators ask for it (`pipeline.diffusion.model.Model`). A family's file says how rows are embedded
    and the network is called.
    """

    network: nn.Module
    predict: Predict
    embed: Callable[[Rows], Embedding]
    vae: Vae | None
    """The autoencoder; None where z is the image itself."""
    prediction: Prediction
    limit: Callable[[Tensor], Tensor] = unlimited
    dtype: torch.dtype = torch.float32
    tokenizer: Any = None
    """The tokenizer of the text that the network attends to; only where `attention` is set."""
    edit: AttentionEdit | None = None

    def edited(self, edit: AttentionEdit) -> Backbone:
        """The model whose attention follows `edit` (`pipeline.diffusion.editing.EditsAttention`)."""
        return replace(self, edit=edit)

    def cut(self, prompt: str) -> int:
        """How many tokens at the end of a prompt are too many (`pipeline.diffusion.model.OfPrompts`)."""
        return self.embed.cut(prompt) if isinstance(self.embed, Prompts) else 0

    def encode(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels) if self.vae else pixels

    def decode(self, z: Tensor) -> Tensor:
        return self.vae.decode(z) if self.vae else z

    def denoiser(self, rows: Rows) -> Denoiser:
        embedding = self.embed(rows)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            given = (x * per_row(self.levels.scale(sigma), x)).to(self.dtype)
            own = {name: tensor.expand(len(x), *tensor.shape[1:]) for name, tensor in embedding.items()}
            output = self.predict(given, self.levels.timestep(sigma).float(), own)
            mean = output[:, : x.shape[1]]  # what follows it is a learned variance
            return to_x0(mean.to(x.dtype), x, sigma, self.prediction)

        if self.edit is None:
            return denoise
        assert rows is not None
        assert not isinstance(rows, Tensor)
        text = embedding["encoder_hidden_states"]
        return following(denoise, self.network, self.tokenizer, rows, self.edit, text)


def parts(
    sketch: Sketch, network: nn.Module, pipe: Any, folder: Path, config: ModelConfig, device: str
) -> dict[str, Any]:
    """What every family's `Backbone` takes from its sketch and its loaded pipeline of latents."""
    return vars(sketch) | {
        "levels": sketch.levels.to(device),
        "network": network,
        "vae": vae_of(pipe, sketch.size, config),
        "prediction": prediction_of(folder),
        "dtype": DTYPES[config.dtype],
    }
