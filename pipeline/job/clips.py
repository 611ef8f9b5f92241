"""Where frames belong together: the clip that a key names, and models that see several frames at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.diffusion.model import OfClips, Outline
from pipeline.errors import UserError
from pipeline.operators import DDIB

if TYPE_CHECKING:
    from pipeline.job.config import JobConfig


def clip_of(key: str, pattern: str | None) -> str | None:
    """The part of a frame's key that names its clip: the pattern's first group. None where it doesn't match."""
    if pattern is None:
        return key
    found = re.fullmatch(pattern, key)
    return found[1] if found else None


SINGLE_IMAGES = {
    "enhance": "measures squares of single images",
    "ilvr": "measures squares of single images",
    "mosaic": "lays the tiles of single images",
    "tile_morph": "lays the tiles of single images",
}
"""Why an operator doesn't work with a model of clips. All else is done to each frame's last two dimensions, or row by
row, and a row may have frames."""


def check_clips(config: JobConfig, model: Outline, second: Outline | None) -> None:
    """Raises `UserError` where a model of clips gets none, or is asked for what only one of images can do."""
    operator, asked = config.operator, config.video.frames if config.video else None
    if second is not None and isinstance(model, OfClips) != isinstance(second, OfClips):
        raise UserError("second_model: one of both models works on clips, the other on single images")
    if not isinstance(model, OfClips):
        if asked is not None:
            raise UserError(f"video.frames is {asked}, and the model works on single images: each frame goes alone")
        return
    if config.video is None and config.clip is None:
        raise UserError("the model works on clips: give the recipe video: {}, or clip where frames are samples")
    for one in (model, second):
        if asked is not None and isinstance(one, OfClips) and asked > one.most_frames:
            raise UserError(f"video.frames is {asked}; the model can take at most {one.most_frames}")
    if operator is not None and (why := SINGLE_IMAGES.get(operator.name)):
        raise UserError(f"operator {operator.name} {why}, and the model works on clips")
    if isinstance(operator, DDIB) and any(stage.name == "rotate" for stage in (*operator.image, *operator.latent)):
        raise UserError("ddib: rotate turns single images, and the model works on clips")


def frames_at_once(config: JobConfig, model: Outline) -> int | None:
    """Frames that the model sees at once; None for a model of single images."""
    if not isinstance(model, OfClips):
        return None
    return config.video.frames if config.video and config.video.frames else model.frames
