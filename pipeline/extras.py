"""What a recipe gives beside images and labels: captions, masks, guides, and the clips that frames belong to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import UserError
from pipeline.masks import Shape, mask_shape
from pipeline.pixels import Fit, Undecodable, decode, decode_mask
from pipeline.records import Frame, Sample
from pipeline.strokes import stroke_painting

if TYPE_CHECKING:
    from pipeline.records import Pixels8


class OneOf(BaseModel):
    """A section with exactly one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _exactly_one(self) -> OneOf:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} is allowed")
        return self


class MaskConfig(OneOf):
    """White is to change, black is kept."""

    member: str | None = None
    """Extension of a member of every sample: `mask.png`."""
    file: str | None = None
    """One image for all samples, in the model's size."""
    shape: Shape | None = None
    """A named shape; random ones are another for every key."""


class Strokes(BaseModel):
    """SDEdit's stroke simulation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    colours: int = Field(default=6, ge=2, le=256)
    kernel: int = Field(default=23, ge=1)
    """Side of the median filter, at 256 pixels."""


class GuideConfig(OneOf):
    """A second image for every sample."""

    member: str | None = None
    file: str | None = None
    strokes: Strokes | None = None
    """The image itself, as a painting of a few strokes."""
    previous: int | None = Field(default=None, ge=1, le=16)
    """So many samples before it, in the same shard; the first have none, and go to the quarantine."""


PLACE = re.compile(r"\{([^{}]+)\}")


class CaptionConfig(BaseModel):
    """Each sample's own prompt, for models that take one. A text alone is the template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(min_length=1)
    """`a photo of a {label}`; `{label}` is the name of the class, `{txt}` a member of the sample, `{json:caption}` a
    field of a JSON member."""
    on_missing: Literal["error", "default", "skip"] = "error"
    """Where a sample lacks what the template names: end the job, take `default`, or put the sample in quarantine."""
    default: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return {"template": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _default_belongs_to_on_missing(self) -> CaptionConfig:
        if (self.default is not None) != (self.on_missing == "default"):
            raise ValueError("default and on_missing: default belong together")
        return self


class JudgeConfig(BaseModel):
    """The CLIP that compares images and texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """A transformers CLIP folder, or a hub id."""
    revision: str | None = None


class NoCaption(Exception):
    """What the sample lacks."""


def read_caption(config: CaptionConfig, sample: Sample, names: Sequence[str] | None) -> str:
    """The template filled in; `names` of the classes by label. Raises `NoCaption` where that is not possible."""
    try:
        return PLACE.sub(lambda place: _named(place[1], sample, names), config.template)
    except NoCaption:
        if config.default is None:
            raise
        return config.default


def _named(place: str, sample: Sample, names: Sequence[str] | None) -> str:
    if place == "label":
        if sample.label is None or sample.label < 0:
            raise NoCaption("the sample has no label")
        if names is not None and sample.label >= len(names):
            raise NoCaption(f"label {sample.label} has no name (there are {len(names)})")
        return names[sample.label] if names else str(sample.label)
    member, _, key = place.partition(":")
    if member not in sample.members:
        raise NoCaption(f"the sample has no member {member!r}")
    try:
        text = sample.members[member].decode()
        found = json.loads(text).get(key) if key else text
    except (ValueError, AttributeError):
        raise NoCaption(f"member {member!r} cannot be read") from None
    if not isinstance(found, str | int) or not str(found).strip():
        raise NoCaption(f"{place} is {'empty' if found is not None else 'missing'}")
    return str(found).strip()


def read_mask(
    config: MaskConfig, sample: Sample, frame: Frame, size: tuple[int, int], fit: Fit, salt: bytes, noise_key: str
) -> Pixels8:
    """uint8 0 or 1, `[H, W]`. Raises `Undecodable`."""
    if config.shape is not None:
        seed = hashlib.blake2b(noise_key.encode(), key=hashlib.blake2b(salt).digest(), person=b"mask").digest()
        return mask_shape(config.shape, size, np.random.default_rng(list(seed))).astype(np.uint8)
    if config.member is not None:
        return decode_mask(_member(sample.members, config.member), frame.full, size, fit)
    return file_mask(config.file or "", size)


def read_guide(config: GuideConfig, sample: Sample, image: Pixels8, size: tuple[int, int], fit: Fit) -> Pixels8 | None:
    """uint8 `[H, W, 3]`; None where it is the sample before. Raises `Undecodable`."""
    if config.strokes is not None:
        return stroke_painting(image, config.strokes.colours, config.strokes.kernel)
    if config.member is not None:
        return decode(_member(sample.members, config.member), size, fit)[0]
    return file_guide(config.file, size, fit) if config.file is not None else None


@cache
def file_mask(file: str, size: tuple[int, int]) -> Pixels8:
    """Raises `UserError`: the file is the recipe's, not a sample's."""
    try:
        return decode_mask(Path(file).expanduser().read_bytes(), size[::-1], size)
    except (OSError, Undecodable) as error:
        raise UserError(f"mask.file: {file!r}: {error}") from None


@cache
def file_guide(file: str, size: tuple[int, int], fit: Fit) -> Pixels8:
    try:
        return decode(Path(file).expanduser().read_bytes(), size, fit)[0]
    except (OSError, Undecodable) as error:
        raise UserError(f"guide.file: {file!r}: {error}") from None


def clip_of(key: str, pattern: str | None) -> str | None:
    """The part of a frame's key that names its clip: the pattern's first group. None where it doesn't match."""
    if pattern is None:
        return key
    found = re.fullmatch(pattern, key)
    return found[1] if found else None


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise Undecodable(f"the sample has no member {name!r} (it has {', '.join(members) or 'no others'})")
    return members[name]
