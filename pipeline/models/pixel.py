"""Any `UNet2DModel` in the diffusers layout, unconditional or class-conditional, behind an optional patch codec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from pipeline.diffusion.denoisers import Denoiser, Prediction, dynamic_threshold, per_row, to_x0
from pipeline.diffusion.levels import Levels
from pipeline.diffusion.model import Rows, labels_of
from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, SpaceToDepth, load_codec
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.folder import hash_model, read_json
from pipeline.models.schedule import levels_of, prediction_of, read_scheduler
from pipeline.optional import installed

if TYPE_CHECKING:
    from diffusers import UNet2DModel

CARD = "doppel.json"
"""The file for what diffusers has no field for: class names, and the label that means "no class"."""
LUMA = (0.299, 0.587, 0.114)
UNET_OPTIONS: dict[str, tuple[Any, ...]] = {"time_embedding_type": ("positional",), "class_embed_type": (None,)}
"""The options of a network that are understood, with their values: other networks embed integers only, or no class
labels."""
OF_PIPELINES = ("size", "variant", "offload", "lora", "textual_inversion", "vae", "distilled_guidance")
"""The options of `model:` that a single network has no use for."""


@dataclass(frozen=True, kw_only=True)
class PixelModel:
    """A network on pixels as operators ask for it (`pipeline.diffusion.model.Model`)."""

    network: nn.Module
    levels: Levels
    prediction: Prediction
    codec: PatchCodec
    fold: int = 1
    """The side, in pixels, of the squares that the network sees as channels. Moving pixels leaves white noise white, so
    this is the network's own affair: z stays an image."""
    channels: int
    size: tuple[int, int]
    shape: tuple[int, int, int]
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    null_label: int | None = None
    """The label that stands for "no class" in a model trained with class dropout."""
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    """The quantile and the largest value of dynamic thresholding; None where there is none."""
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    hash: str = ""

    def encode(self, pixels: Tensor) -> Tensor:
        return self.codec.encode(luma(pixels) if self.channels == 1 else pixels)

    def decode(self, z: Tensor) -> Tensor:
        pixels = self.codec.decode(z)
        return pixels.expand(-1, 3, -1, -1) if self.channels == 1 else pixels

    @property
    def unconditional(self) -> bool:
        return self.classes is None or self.null_label is not None

    @property
    def space(self) -> Literal["pixel", "latent"]:
        return "pixel" if self.codec.kind == "none" else "latent"

    @property
    def conditioning(self) -> Literal["none", "class"]:
        return "none" if self.classes is None else "class"

    def limit(self, x0: Tensor) -> Tensor:
        if self.threshold:
            return dynamic_threshold(x0, *self.threshold)
        return x0.clamp(-self.clip, self.clip) if self.clip else x0

    def denoiser(self, rows: Rows) -> Denoiser:
        """The estimate under one label for each image. Raises `UserError` where the model needs labels and none are
        given.
        """
        labels = None if rows is None else labels_of(rows)
        if not self.unconditional and (labels is None or bool((labels < 0).any())):
            raise UserError("the model was trained with labels only (no class dropout), and none are given")

        embedded = self._embedded(labels)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            given = (x * per_row(self.levels.scale(sigma), x)).to(self.dtype)
            given = pixel_unshuffle(given, self.fold)
            if self.channels_last:
                given = given.contiguous(memory_format=torch.channels_last)
            own = None if embedded is None else embedded.expand(len(x))
            output = self.network(given, self.levels.timestep(sigma).float(), class_labels=own)
            mean = output.sample[:, : given.shape[1]]  # what follows it is a learned variance
            return to_x0(pixel_shuffle(mean.to(x.dtype), self.fold), x, sigma, self.prediction)

        return denoise

    def features(self, z: Tensor) -> Tensor:
        """What the first block of the network sees in almost clean images, `[B, F, H, W]`, for comparing tiles."""
        sigma = self.levels.sigma(torch.full((len(z),), 0.05, dtype=torch.float64, device=z.device))
        seen: list[Tensor] = []
        block = self.network.get_submodule("down_blocks.0")
        hook = block.register_forward_hook(lambda module, given, output: seen.append(output[1][0]))
        try:
            self.denoiser(None if self.unconditional else [0] * len(z))(z, sigma)
        finally:
            hook.remove()
        return interpolate(seen[0].to(z.dtype), size=z.shape[2:], mode="bilinear")

    def _embedded(self, labels: Tensor | None) -> Tensor | None:
        """What the network embeds for each row; one number where all rows are alike."""
        if self.classes is None:
            return None
        null = self.null_label if self.null_label is not None else 0
        embedded = torch.tensor([null]) if labels is None else torch.where(labels < 0, null, labels)
        return embedded.to(next(self.network.parameters()).device)


def luma(pixels: Tensor) -> Tensor:
    """Makes grey images `[B, 1, H, W]` of colour images `[B, 3, H, W]`."""
    return (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)


def load_pixel_model(folder: Path, config: ModelConfig, device: str) -> PixelModel:
    """Loads a model folder onto `device`. Raises `UserError` for what is missing or unknown in it."""
    network = load_network(network_folder(folder), DTYPES[config.dtype])
    network = network.eval().requires_grad_(False).to(device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    model = assemble(network, folder, device, config)
    if config.compile:
        network.forward = torch.compile(network.forward)
    return model


def sketch_pixel_model(folder: Path, config: ModelConfig) -> PixelModel:
    """Tells the model from its folder alone. Raises `UserError` for what is missing or unknown in it."""
    from diffusers import UNet2DModel

    settings = network_settings(network_folder(folder))
    try:
        with torch.device("meta"):
            network = UNet2DModel.from_config(settings)
    except Exception as error:  # senseless options break the constructor anywhere
        raise unloadable(folder, error) from None
    return assemble(network, folder, "cpu", config)


def network_folder(folder: Path) -> Path:
    """The folder that holds the network: the model's own, or its `unet`."""
    return folder / "unet" if (folder / "unet").is_dir() else folder


def network_settings(folder: Path) -> dict[str, Any]:
    """Reads the network's options. Raises `UserError` where the folder holds another class, or unknown options."""
    file = folder / "config.json"
    settings = read_json(file)
    if settings.get("_class_name") != "UNet2DModel":
        raise UserError(f"{file}: _class_name is {settings.get('_class_name')!r}; allowed is UNet2DModel")
    for option, allowed in UNET_OPTIONS.items():
        if settings.get(option, allowed[0]) not in allowed:
            raise UserError(f"{file}: {option} is {settings[option]!r}; known are {', '.join(map(str, allowed))}")
    return settings


def unloadable(folder: Path, error: Exception) -> UserError:
    """The one sentence that tells why a network can't be loaded."""
    return UserError(f"{folder}: the network cannot be loaded ({' '.join(str(error).split())[:200]})")


def load_network(folder: Path, dtype: torch.dtype) -> UNet2DModel:
    """Loads the network. Raises `UserError` where the folder holds another class, or not all of its weights."""
    from diffusers import UNet2DModel

    network_settings(folder)
    try:
        network, found = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, torch_dtype=dtype, output_loading_info=True,
            low_cpu_mem_usage=installed("accelerate"),
        )  # fmt: skip
    except Exception as error:  # damaged weights and senseless options break the loader anywhere
        raise unloadable(folder, error) from None
    if found["missing_keys"]:  # diffusers would go on with random ones
        raise UserError(f"{folder}: the weights lack {len(found['missing_keys'])} tensors that config.json asks for")
    return network


def assemble(network: UNet2DModel, folder: Path, device: str, config: ModelConfig) -> PixelModel:
    """Joins the network of a folder with the schedule, codec and labels that the folder states."""
    for option in OF_PIPELINES:
        if getattr(config, option) != ModelConfig.model_fields[option].default:
            raise UserError(f"model.{option}: {folder} holds a single UNet2DModel, which does not use it")
    scheduler = read_scheduler(folder)
    codec = load_codec(folder)
    depth, side, embeddings = (network.config[key] for key in ("in_channels", "sample_size", "num_class_embeds"))
    if not side:
        raise UserError(f"{folder}: the network's config.json states no sample_size")
    height, width = (side, side) if isinstance(side, int) else side
    channels, size = codec.channels(depth), (height * codec.patch, width * codec.patch)
    if channels not in (1, 3) or codec.encode(torch.zeros(1, channels, *size)).shape[1] != depth:
        raise UserError(f"{folder}: {depth} channels in patches of {codec.patch} are neither grey nor RGB images")
    fold = codec.patch if isinstance(codec, SpaceToDepth) else 1
    card = read_json(folder / CARD) if (folder / CARD).exists() else {}
    null_label, names = card.get("null_label"), card.get("class_names")
    classes = embeddings - (null_label is not None) if embeddings else None
    if null_label not in (None, classes):
        raise UserError(f"{folder / CARD}: null_label is {null_label}; expected is the label after the last class")
    if names and len(names) != classes:
        raise UserError(f"{folder / CARD}: {len(names)} class_names; the network has {classes or 'no'} classes")
    return PixelModel(
        network=network,
        levels=levels_of(folder).to(device),
        prediction=prediction_of(folder),
        codec=SpaceToDepth() if fold > 1 else codec.to(device),
        fold=fold,
        channels=channels,
        size=size,
        shape=(channels, *size) if fold > 1 or codec.patch == 1 else (depth, height, width),
        classes=classes,
        class_names=tuple(names) if names else None,
        null_label=null_label,
        clip=scheduler["clip_sample_range"] if scheduler.get("clip_sample") else None,
        threshold=(
            (scheduler["dynamic_thresholding_ratio"], scheduler["sample_max_value"])
            if scheduler.get("thresholding")
            else None
        ),
        dtype=DTYPES[config.dtype],
        channels_last=config.channels_last,
        hash=hash_model(folder),
    )
