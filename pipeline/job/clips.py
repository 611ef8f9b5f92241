"""Frames that belong together: the clip that a key names, and models that see several frames at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.diffusion.model import OfClips, Outline
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.job.config import JobConfig


def clip_of(key: str, pattern: str) -> str | None:
    """The part of a frame's key that names its clip: the first group of `pattern`.

    A clip may go on in the next shard, so that its name is the same in all. Returns None where the pattern does not
    match the whole key.
    """
    found = re.fullmatch(pattern, key)
    return found[1] if found else None


def check_clips(config: JobConfig, model: Outline, second: Outline | None) -> None:
    """Raises `UserError` where a model of clips gets none, or a model of images is asked for a window of frames."""
    asked = config.video.frames if config.video else None
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


def frames_at_once(config: JobConfig, model: Outline) -> int | None:
    """How many frames the model sees at once; None for a model of single images."""
    if not isinstance(model, OfClips):
        return None
    return config.video.frames if config.video and config.video.frames else model.frames
