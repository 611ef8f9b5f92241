"""The noise schedule and what the network predicts, from a folder's scheduler configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.diffusion.denoisers import Prediction
from pipeline.diffusion.levels import Levels, levels_from_scheduler
from pipeline.errors import UserError
from pipeline.models.folder import read_json

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample", "flow_prediction": "flow",
}  # fmt: skip
SCHEDULERS = (
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler",
    "DEISMultistepScheduler", "LCMScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
)  # fmt: skip
"""The classes of schedulers that are read. Only their noise schedules count: the solver is the operator's."""


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Reads the scheduler's options; where its file is silent they are its class's defaults: clipping and spacing
    differ.
    """
    import diffusers

    file = folder / "scheduler" / "scheduler_config.json"
    file = file if file.exists() else folder / "scheduler_config.json"
    found = read_json(file)
    name = found.get("_class_name")
    if name not in SCHEDULERS:
        raise UserError(f"{file}: _class_name is {name!r}; known are {', '.join(SCHEDULERS)}")
    options = inspect.signature(getattr(diffusers, name)).parameters
    return {"_class_name": name} | {key: found.get(key, option.default) for key, option in options.items()}


def levels_of(folder: Path, image_tokens: int | None = None) -> Levels:
    """Reads the noise levels. `image_tokens` are those of an image, where the schedule depends on its size.

    Raises `UserError` for an unknown schedule.
    """
    try:
        return levels_from_scheduler(read_scheduler(folder), image_tokens)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder}: scheduler_config.json: {error}") from None


def prediction_of(folder: Path) -> Prediction:
    """Reads what the network predicts. Raises `UserError` for an unknown kind of prediction."""
    scheduler: Mapping[str, Any] = read_scheduler(folder)
    if "FlowMatch" in scheduler["_class_name"]:
        return "flow"
    predicted = scheduler.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise UserError(f"{folder}: prediction_type is {predicted!r}; known are {', '.join(PREDICTIONS)}")
    return PREDICTIONS[predicted]
