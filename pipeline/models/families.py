"""Which file reads which model folder, by the class that its model_index.json names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.diffusion.model import Model, Outline
from pipeline.errors import UserError
from pipeline.models.cascade import STAGES, load_cascade, sketch_cascade
from pipeline.models.config import ModelConfig
from pipeline.models.deepfloyd import load_deepfloyd, sketch_deepfloyd
from pipeline.models.dit import load_dit, load_pixart, sketch_dit, sketch_pixart
from pipeline.models.flow import load_flux, load_sd3, sketch_flux, sketch_sd3
from pipeline.models.folder import find_model, read_json
from pipeline.models.latent import load_latent, sketch_latent
from pipeline.models.latent_xl import load_latent_xl
from pipeline.models.loading import INDEX
from pipeline.models.pixel import load_pixel_model, sketch_pixel_model
from pipeline.models.video import load_video, sketch_video
from pipeline.optional import require_package


@dataclass(frozen=True)
class Family:
    """How the models of one family are read and loaded."""

    sketch: Callable[[Path, ModelConfig], Outline]
    """Tells the model without its weights: quick, and enough to check a recipe against."""
    load: Callable[[Path, ModelConfig, str], Model]
    """Loads the model onto a device."""


PIXEL = Family(sketch_pixel_model, load_pixel_model)
LATENT = Family(sketch_latent, load_latent)
DIT = Family(sketch_dit, load_dit)
PIXART = Family(sketch_pixart, load_pixart)
LATENT_XL = Family(sketch_latent, load_latent_xl)
SD3 = Family(sketch_sd3, load_sd3)
FLUX = Family(sketch_flux, load_flux)
DEEPFLOYD = Family(sketch_deepfloyd, load_deepfloyd)
VIDEO = Family(sketch_video, load_video)
FAMILIES: dict[str, Family] = {
    "DDPMPipeline": PIXEL,
    "DDIMPipeline": PIXEL,
    "PNDMPipeline": PIXEL,
    "StableDiffusionPipeline": LATENT,
    "StableDiffusionImg2ImgPipeline": LATENT,
    "LatentConsistencyModelPipeline": LATENT,
    "LatentConsistencyModelImg2ImgPipeline": LATENT,
    "DiTPipeline": DIT,
    "PixArtAlphaPipeline": PIXART,
    "PixArtSigmaPipeline": PIXART,
    "StableDiffusionXLPipeline": LATENT_XL,
    "StableDiffusionXLImg2ImgPipeline": LATENT_XL,
    "StableDiffusion3Pipeline": SD3,
    "StableDiffusion3Img2ImgPipeline": SD3,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
    "IFPipeline": DEEPFLOYD,
    "IFImg2ImgPipeline": DEEPFLOYD,
    "AnimateDiffPipeline": VIDEO,
}


def family_of(folder: Path) -> Family:
    """The family of a model folder; one without an index is a single network. Raises `UserError` for an unknown
    class.
    """
    if not (folder / INDEX).exists():
        return PIXEL
    name = read_json(folder / INDEX).get("_class_name")
    if name in STAGES:
        raise UserError(
            f"model.path: {folder} holds an upper stage of a cascade ({name}): it belongs under model.upscalers"
        )
    if name not in FAMILIES:
        raise UserError(f"{folder / INDEX}: _class_name is {name!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def load_model(config: ModelConfig | str, device: str = "cpu") -> Model:
    """Loads a model with its weights onto `device`; a path, embedded name or hub id stands for a configuration of that
    path.

    Raises `UserError` for what is missing or unknown in the folder, and for a package that is missing.
    """
    if isinstance(config, str):
        config = ModelConfig(path=config)
    _require_packages(config)
    folder = find_model(config)
    model = family_of(folder).load(folder, config, device)
    return load_cascade(model, config, device) if config.upscalers else model


def sketch_model(config: ModelConfig) -> Outline:
    """What can be known of a model without its weights. Raises `UserError` as `load_model` does."""
    _require_packages(config)
    folder = find_model(config)
    sketch = family_of(folder).sketch(folder, config)
    return sketch_cascade(sketch, config) if config.upscalers else sketch


def trained_size(config: ModelConfig) -> tuple[int, int] | None:
    """Height and width that a model was trained at, whatever `model.size` says; None where its folder does not say."""
    try:
        return sketch_model(config.model_copy(update={"size": None})).size
    except UserError:
        return None


def _require_packages(config: ModelConfig) -> None:
    if config.lora:
        require_package("peft", "model.lora", extra="lora")
    if config.offload != "none":
        require_package("accelerate", "model.offload", extra="train")
