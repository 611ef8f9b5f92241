"""The beginning of a training: a new network with a codec fitted to the data, or the weights of a finished model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, load_codec
from pipeline.models.config import ModelConfig
from pipeline.models.folder import find_model
from pipeline.models.pixel import load_network, network_folder
from pipeline.models.schedule import levels_of, prediction_of
from training.denoiser.network import build_network, build_scheduler, fit_codec

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import UNet2DModel

    from training.data.cache import PixelCache
    from training.denoiser.config import DenoiserConfig


def begin(config: DenoiserConfig, cache: PixelCache) -> tuple[UNet2DModel, PatchCodec]:
    """The network and the codec before the first step.

    Raises `UserError` where `start` names no model, or one whose network, codec, levels or prediction are not those of
    the recipe: its weights would mean something else.
    """
    if config.start is None:
        codec = fit_codec(config, cache)
        return build_network(config, codec), codec
    folder = find_model(ModelConfig(path=config.start))
    codec = load_codec(folder)
    network = build_network(config, codec)
    for name, (found, wanted) in compared(config, folder, codec).items():
        if found != wanted:
            raise UserError(f"start: {config.start} has {name} {found}; the recipe asks for {wanted}")
    weights = load_network(network_folder(folder), torch.float32).state_dict()
    own = network.state_dict()
    unlike = sorted(n for n in own.keys() | weights.keys() if shape(own.get(n)) != shape(weights.get(n)))
    if unlike:
        raise UserError(
            f"start: {config.start} has another network than the recipe: {len(unlike)} tensors differ, the first is "
            f"{unlike[0]} ({shape(weights.get(unlike[0]))}; the recipe's is {shape(own.get(unlike[0]))})"
        )
    network.load_state_dict(weights)
    return network, codec


def compared(config: DenoiserConfig, folder: Path, codec: PatchCodec) -> dict[str, tuple[object, object]]:
    """What the model has and what the recipe asks for, by the name of the property."""
    from pipeline.diffusion.levels import levels_from_scheduler

    fractions = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    theirs, ours = levels_of(folder), levels_from_scheduler(build_scheduler(config).config)
    return {
        "codec": ((codec.kind, codec.patch), (config.codec.kind, config.codec.patch)),
        "prediction": (prediction_of(folder), config.diffusion.prediction),
        "training levels": (theirs.steps, ours.steps),
        "σ at t/T .1, .5 and 1 of": (rounded(theirs.sigma(fractions)), rounded(ours.sigma(fractions))),
    }


def rounded(values: torch.Tensor) -> list[float]:
    """The values to five significant digits."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def shape(tensor: torch.Tensor | None) -> object:
    """The shape of a tensor; None for None."""
    return None if tensor is None else tuple(tensor.shape)
