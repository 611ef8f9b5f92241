"""What a recipe gives in addition to images and labels: masks, guides, and a judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.media.frame import Frame
from pipeline.media.mask_files import decode_mask
from pipeline.media.masks import MaskRules, Shape, mask_shape
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import decode
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.media.strokes import stroke_painting
from pipeline.section import LocalPath, OneOf, Section

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


class MaskConfig(MaskRules):
    """A mask for every sample: white is to change, black is kept."""

    member: str | None = None
    """The extension of a member that every sample has, such as `mask.png`."""
    file: LocalPath | None = None
    """One image for all samples, scaled to the model's size."""
    shape: Shape | None = None
    """A named shape; a random one differs from key to key."""

    @model_validator(mode="after")
    def _one_origin(self) -> MaskConfig:
        if sum(origin is not None for origin in (self.member, self.file, self.shape)) != 1:
            raise ValueError("exactly one of member, file, shape is allowed")
        if self.shape is not None and (self.channel or self.threshold):
            raise ValueError("channel and threshold are for mask files, and shape names none")
        return self

    @property
    def rules(self) -> MaskRules:
        """What the pixels of the files mean."""
        return MaskRules(channel=self.channel, threshold=self.threshold)


class Strokes(Section):
    """The stroke simulation of SDEdit (Meng et al., 2108.01073): a median filter, then a few colours."""

    colours: int = Field(default=6, ge=2, le=256)
    """How many colours the painting has."""
    kernel: int = Field(default=23, ge=1)
    """Side of the median filter in pixels, for an image of 256 pixels."""


class GuideConfig(OneOf):
    """A second image for every sample."""

    member: str | None = None
    """The extension of a member that every sample has."""
    file: LocalPath | None = None
    """One image for all samples."""
    strokes: Strokes | None = None
    """The image itself, as a painting of a few strokes."""
    previous: int | None = Field(default=None, ge=1, le=16)
    """The guides are so many samples before this one in the same shard. The first samples have too few and go to
    quarantine."""


class JudgeConfig(Section):
    """The CLIP that compares images and texts."""

    path: str
    """A folder in transformers' format, or the id of a model on the hub."""
    revision: str | None = None
    """The branch, tag or commit on the hub."""


def read_mask(
    config: MaskConfig,
    sample: Sample,
    frame: Frame,
    size: tuple[int, int],
    rules: PixelRules,
    salt: bytes,
    noise_key: str,
) -> Pixels8:  # fmt: skip
    """The mask of a sample, uint8 `[H, W]`, 1 where the image is to change; `size` is (height, width).

    A random shape depends on `salt` and `noise_key`. Raises `Undecodable` for a member that is missing or no image.
    """
    if config.shape is not None:
        seed = hashlib.blake2b(noise_key.encode(), key=hashlib.blake2b(salt).digest(), person=b"mask").digest()
        return mask_shape(config.shape, size, np.random.default_rng(list(seed))).astype(np.uint8)
    if config.member is not None:
        return decode_mask(_member(sample.members, config.member), frame.full, size, rules.fit, config.rules)
    return file_mask(config.file or "", size, config.rules)


def read_guide(
    config: GuideConfig, sample: Sample, image: Pixels8, size: tuple[int, int], rules: PixelRules
) -> Pixels8 | None:
    """The guide of a sample, uint8 RGB `[H, W, 3]`; None where it is an earlier sample. Raises `Undecodable`."""
    if config.strokes is not None:
        return stroke_painting(image, config.strokes.colours, config.strokes.kernel)
    if config.member is not None:
        return decode(_member(sample.members, config.member), size, rules)[0]
    return file_guide(config.file, size, rules) if config.file is not None else None


@cache
def file_mask(file: str, size: tuple[int, int], rules: MaskRules) -> Pixels8:
    """The mask of the recipe's file, read once. Raises `UserError` where it cannot be read."""
    try:
        return decode_mask(Path(file).read_bytes(), size[::-1], size, rules=rules)
    except (OSError, Undecodable) as error:
        raise UserError(f"mask.file: {file!r}: {error}") from None


@cache
def file_guide(file: str, size: tuple[int, int], rules: PixelRules) -> Pixels8:
    """The guide of the recipe's file, read once. Raises `UserError` where it cannot be read."""
    try:
        return decode(Path(file).read_bytes(), size, rules)[0]
    except (OSError, Undecodable) as error:
        raise UserError(f"guide.file: {file!r}: {error}") from None


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise Undecodable(f"the sample has no member {name!r} (it has {', '.join(members) or 'no others'})")
    return members[name]
