"""Any `UNet2DModel` in the diffusers layout, unconditional or class-conditional, behind an optional patch codec."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.diffusion.denoisers import Denoiser, Prediction, clip_x0, dynamic_threshold, per_row, to_x0
from pipeline.diffusion.levels import Levels, levels_from_scheduler
from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, load_codec
from pipeline.models.folder import find_model, hash_model

CARD = "doppel.json"
"""What diffusers has no field for: class names and the label that means "no class"."""
LUMA = (0.299, 0.587, 0.114)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample", "flow_prediction": "flow",
}  # fmt: skip


class ModelConfig(BaseModel):
    """The `model:` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """A diffusers model folder, `embedded:NAME`, or a hub id."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the network alone: the trajectory is always float32."""
    channels_last: bool = False
    compile: bool = False
    batch_size: int = Field(default=64, ge=1)
    """Images in one call of the network; the last batch of a shard is padded to it."""


@dataclass(frozen=True, kw_only=True)
class PixelModel:
    """See `pipeline.diffusion.model.Model`."""

    network: nn.Module
    levels: Levels
    prediction: Prediction
    codec: PatchCodec
    channels: int
    size: tuple[int, int]
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    null_label: int | None = None
    """The label that stands for "no class" in a model trained with class dropout."""
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    """Quantile and largest value of dynamic thresholding."""
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    hash: str = ""

    def encode(self, pixels: Tensor) -> Tensor:
        if self.channels == 1:
            pixels = (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        return self.codec.encode(pixels)

    def decode(self, z: Tensor) -> Tensor:
        pixels = self.codec.decode(z)
        return pixels.expand(-1, 3, -1, -1) if self.channels == 1 else pixels

    def denoiser(self, labels: Tensor | None) -> Denoiser:
        """Raises `UserError` where the model needs labels and none are given."""
        if labels is None and self.classes is not None and self.null_label is None:
            raise UserError("the model was trained with labels only (no class dropout), and none are given")

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            given = (x * per_row(self.levels.scale(sigma), x)).to(self.dtype)
            if self.channels_last:
                given = given.contiguous(memory_format=torch.channels_last)
            output = self.network(given, self.levels.timestep(sigma).float(), class_labels=self._labels(labels, x))
            return to_x0(output.sample[:, : x.shape[1]].to(x.dtype), x, sigma, self.prediction)

        if self.threshold:
            return dynamic_threshold(denoise, *self.threshold)
        return clip_x0(denoise, self.clip) if self.clip else denoise

    def _labels(self, labels: Tensor | None, x: Tensor) -> Tensor | None:
        if self.classes is None:
            return None
        return labels if labels is not None else torch.full((len(x),), self.null_label or 0, device=x.device)


def load_pixel_model(config: ModelConfig, device: str) -> PixelModel:
    """Loads a model folder onto `device`. Raises `UserError` for what is missing or unknown in it."""
    from diffusers import UNet2DModel

    folder = find_model(config.path, config.revision)
    network_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    settings = _read(network_folder / "config.json")
    if settings.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise UserError(f"{network_folder / 'config.json'}: a {settings['_class_name']}; allowed is UNet2DModel")
    network = UNet2DModel.from_pretrained(network_folder, use_safetensors=True, torch_dtype=DTYPES[config.dtype])
    network = network.eval().requires_grad_(False).to(device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    model = assemble(network, settings, folder, device, config)
    if config.compile:
        network.forward = torch.compile(network.forward)
    return model


def assemble(
    network: nn.Module, settings: dict[str, Any], folder: Path, device: str, config: ModelConfig
) -> PixelModel:
    """The network of a folder with the schedule, codec and labels that the folder states."""
    scheduler = _read(_scheduler_file(folder))
    codec = load_codec(folder).to(device)
    card = _read(folder / CARD) if (folder / CARD).exists() else {}
    null_label = card.get("null_label")
    embeddings = settings.get("num_class_embeds")
    classes = embeddings - (null_label is not None) if embeddings else None
    side = settings.get("sample_size")
    if not side:
        raise UserError(f"{folder}: config.json states no sample_size")
    height, width = (side, side) if isinstance(side, int) else side
    predicted = scheduler.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise UserError(f"{folder}: prediction_type is {predicted!r}; known are {', '.join(PREDICTIONS)}")
    thresholding = scheduler.get("thresholding", False)
    return PixelModel(
        network=network,
        levels=levels_from_scheduler(scheduler).to(device),
        prediction="flow" if "FlowMatch" in scheduler.get("_class_name", "") else PREDICTIONS[predicted],
        codec=codec,
        channels=codec.channels(settings["in_channels"]),
        size=(height * codec.patch, width * codec.patch),
        classes=classes,
        class_names=tuple(card["class_names"]) if card.get("class_names") else None,
        null_label=null_label,
        clip=scheduler.get("clip_sample_range", 1.0) if scheduler.get("clip_sample", False) else None,
        threshold=(
            (scheduler.get("dynamic_thresholding_ratio", 0.995), scheduler.get("sample_max_value", 1.0))
            if thresholding
            else None
        ),
        dtype=DTYPES[config.dtype],
        channels_last=config.channels_last,
        hash=hash_model(folder),
    )


def _scheduler_file(folder: Path) -> Path:
    inside = folder / "scheduler" / "scheduler_config.json"
    return inside if inside.exists() else folder / "scheduler_config.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file} is missing: the folder is no diffusers model") from None
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error})") from None
