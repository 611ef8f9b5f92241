"""The safety checker in a model's folder, as those of Stable Diffusion have it: which images it objects to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.folder import find_model, read_json

CHECKER, PREPARATION = "safety_checker", "feature_extractor"
"""The folders of the checker, and of what prepares images for it."""
KIND = "StableDiffusionSafetyChecker"
"""The only class of checkers that is known."""
UNASKED = "the model has a safety checker, which is not asked: safety: refuse withholds what it objects to"
"""What is said of jobs with such a model and `safety: off`."""


@dataclass(frozen=True, kw_only=True)
class SafetyChecker:
    """A loaded checker, in float32."""

    network: Any
    prepare: Any
    """The folder's image processor."""

    @torch.no_grad()
    def objections(self, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """Whether it objects to each of some images, uint8 RGB `[H, W, 3]` of any sizes."""
        seen = self.prepare([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        _, found = self.network(clip_input=seen.to(self.network.device), images=torch.zeros(len(images), 1))
        return [bool(one) for one in found]


def has_checker(config: ModelConfig) -> bool:
    """Whether a safety checker lies in the folder of a model."""
    return (find_model(config) / CHECKER / "config.json").is_file()


def check_safety(models: Iterable[ModelConfig]) -> None:
    """Raises `UserError` where none of the models has a checker, or one has a checker that cannot be asked."""
    folders = [find_model(model) for model in models if has_checker(model)]
    if not folders:
        raise UserError(f"safety: refuse needs a model with a folder {CHECKER}; allowed is off")
    for folder in folders:
        kinds = read_json(folder / CHECKER / "config.json").get("architectures")
        if kinds != [KIND]:
            raise UserError(f"{folder / CHECKER}: the checker is a {kinds}; known is {KIND}")
        if not (folder / PREPARATION / "preprocessor_config.json").is_file():
            raise UserError(f"{folder / PREPARATION}/preprocessor_config.json is missing, which the checker needs")


def load_checkers(models: Iterable[ModelConfig], device: str) -> tuple[SafetyChecker, ...]:
    """Loads the checkers of all models that have one, safetensors only. Raises `UserError` for one that is damaged."""
    return tuple(_load(find_model(model), model.variant, device) for model in models if has_checker(model))


def _load(folder: Path, variant: str | None, device: str) -> SafetyChecker:
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    library: Any = transformers  # typed in part, and not as it is
    try:
        network, found = StableDiffusionSafetyChecker.from_pretrained(
            folder / CHECKER, variant=variant, use_safetensors=True, torch_dtype=torch.float32, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
        prepare = library.CLIPImageProcessor.from_pretrained(folder / PREPARATION, local_files_only=True)
    except Exception as error:  # damaged weights and senseless options break the loaders anywhere
        raise UserError(f"{folder / CHECKER} cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    if missing := [name for name in found["missing_keys"] if not name.endswith("position_ids")]:
        raise UserError(f"{folder / CHECKER}: the weights lack {len(missing)} tensors")
    if not all(bool(weights.isfinite().all()) for weights in network.parameters()):
        raise UserError(f"{folder / CHECKER}: the weights are not finite, so it would object to nothing")
    return SafetyChecker(network=network.eval().requires_grad_(False).to(device), prepare=prepare)
