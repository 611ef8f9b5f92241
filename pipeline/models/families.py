"""Which file reads which model folder, by the class that its model_index.json names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.diffusion.model import Model, Outline
from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.flow import load_flux, load_sd3, sketch_flux, sketch_sd3
from pipeline.models.folder import find_model, read_json
from pipeline.models.latent import load_latent, sketch_latent
from pipeline.models.latent_xl import load_latent_xl, sketch_latent_xl
from pipeline.models.loading import INDEX
from pipeline.models.pixel import load_pixel_model, sketch_pixel_model


@dataclass(frozen=True)
class Family:
    sketch: Callable[[Path, ModelConfig], Outline]
    """Without weights: quick, and enough to check a recipe against."""
    load: Callable[[Path, ModelConfig, str], Model]


PIXEL = Family(sketch_pixel_model, load_pixel_model)
LATENT = Family(sketch_latent, load_latent)
LATENT_XL = Family(sketch_latent_xl, load_latent_xl)
SD3 = Family(sketch_sd3, load_sd3)
FLUX = Family(sketch_flux, load_flux)
FAMILIES: dict[str, Family] = {
    "DDPMPipeline": PIXEL,
    "DDIMPipeline": PIXEL,
    "PNDMPipeline": PIXEL,
    "StableDiffusionPipeline": LATENT,
    "StableDiffusionImg2ImgPipeline": LATENT,
    "StableDiffusionXLPipeline": LATENT_XL,
    "StableDiffusionXLImg2ImgPipeline": LATENT_XL,
    "StableDiffusion3Pipeline": SD3,
    "StableDiffusion3Img2ImgPipeline": SD3,
    "FluxPipeline": FLUX,
    "FluxImg2ImgPipeline": FLUX,
}


def family_of(folder: Path) -> Family:
    """A folder without an index is a single network. Raises `UserError` for a class that is not known."""
    if not (folder / INDEX).exists():
        return PIXEL
    name = read_json(folder / INDEX).get("_class_name")
    if name not in FAMILIES:
        raise UserError(f"{folder / INDEX}: _class_name is {name!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def load_model(config: ModelConfig, device: str) -> Model:
    """Raises `UserError` for what is missing or unknown in the folder."""
    folder = find_model(config)
    return family_of(folder).load(folder, config, device)


def sketch_model(config: ModelConfig) -> Outline:
    folder = find_model(config)
    return family_of(folder).sketch(folder, config)
