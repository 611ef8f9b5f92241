"""The configuration of a job, and all that can be known to be wrong with it before work starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline import __version__
from pipeline.anonymity.config import AnonymityConfig
from pipeline.cascade import check
from pipeline.diffusion.model import Outline
from pipeline.errors import UserError
from pipeline.extras import CaptionConfig, GuideConfig, JudgeConfig, MaskConfig, file_guide, file_mask
from pipeline.frames import OfClips
from pipeline.identity import code_hash, hash_files, hash_json, identity, read_salt, salt_check
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.models.folder import find_model, hash_model
from pipeline.models.licence import Licence, read_licence
from pipeline.operators import DDIB, AnyOperator, Operator
from pipeline.operators.contract import Extra
from pipeline.pixels import Codec, Fit
from pipeline.release import ReleaseConfig
from pipeline.streams import AnyInput, OutputFormat
from pipeline.streams.shards import CLIP_EXTENSIONS, IMAGE_EXTENSIONS


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageConfig(Section):
    fit: Fit = "resize"
    """How an image of another size is brought to the model's: stretch, cut out the centre, or pad."""
    restore_size: bool = False
    """Scale the output back to the size of the source (of the part that the model saw)."""
    mode: Literal["source", "RGB"] = "source"
    """`source`: grey images stay grey, also where the model paints in colour."""


class OutputConfig(Section):
    path: str
    format: OutputFormat = "webdataset"
    codec: Codec | Literal["auto"] = "auto"
    """`auto`: PNG below 128 pixels a side, else JPEG."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG and WebP."""


class RunConfig(Section):
    """Where and how fast; nothing here changes the bytes that are written."""

    devices: tuple[str, ...] = ("auto",)
    """`auto` takes every CUDA device, or the CPU; more than one device: one process each."""
    workers: int = Field(default=2, ge=1)
    """Threads that decode and encode, for each device."""
    salt_file: str | None = None
    """File with the secret that noise is derived from (or the variable DOPPEL_SALT); at least 16 bytes."""


class VideoConfig(Section):
    """Samples whose image is a clip, .mp4 or .gif, are read with all their frames, and written as clips again.

    `output.codec` and `quality` are of images, and say nothing of clips.
    """

    frames: int | None = Field(default=None, ge=1)
    """That a model of clips sees at once; by default as many as it was trained with."""


class JobConfig(Section):
    """What `doppel run` reads. Without `model` and `operator` the job passes images through."""

    input: AnyInput
    model: ModelConfig | None = None
    second_model: ModelConfig | None = None
    """For operators between two models; its `batch_size` does not count."""
    operator: AnyOperator | None = None
    caption: CaptionConfig | None = None
    """Each sample's own prompt; models that take none have no use for it."""
    edited: CaptionConfig | None = None
    """The caption of each sample as it is to become; condition `edited`."""
    judge: JudgeConfig | None = None
    mask: MaskConfig | None = None
    guide: GuideConfig | None = None
    anonymity: AnonymityConfig | None = None
    """Verify each output's faces; without proof it is not written."""
    release: ReleaseConfig | None = None
    """Publish what was verified, without all that names people."""
    clip: str | None = None
    """Regular expression for the keys of frames; its first group names the clip. The frames of a clip share their
    noise."""
    video: VideoConfig | None = None
    image: ImageConfig = ImageConfig()
    output: OutputConfig
    run: RunConfig = RunConfig()
    limit: int | None = Field(default=None, ge=1)
    """Only the first N samples of the stream."""

    @model_validator(mode="after")
    def _model_and_operator(self) -> JobConfig:
        if (self.model is None) != (self.operator is None):
            raise ValueError("model and operator belong together: give both, or neither to pass images through")
        return self

    @model_validator(mode="after")
    def _extras_are_used(self) -> JobConfig:
        extras = {name: getattr(self, name) for name in get_args(Extra)}
        given = {name for name, section in extras.items() if section is not None}
        needs, accepts = (self.operator.needs, self.operator.accepts) if self.operator else (frozenset(), frozenset())
        name = self.operator.name if self.operator else "none"
        if missing := needs - given:
            raise ValueError(f"operator {name} needs a section {' and a section '.join(sorted(missing))}")
        if useless := given - needs - accepts:
            raise ValueError(f"operator {name} has no use for the section {', '.join(sorted(useless))}")
        if self.operator and self.guide and (self.guide.previous or 1) > 1 and not self.operator.several_guides:
            raise ValueError(f"operator {name} takes one guide; guide.previous is {self.guide.previous}")
        return self

    @model_validator(mode="after")
    def _verified(self) -> JobConfig:
        if self.release is not None and self.anonymity is None:
            raise ValueError("release needs a section anonymity: only what was verified is released")
        if self.anonymity is None:
            return self
        if self.operator is None:
            raise ValueError("anonymity needs a model and an operator: an image as it came is never anonymous")
        if self.operator.invertible:
            raise ValueError(
                f"operator {self.operator.name} can be undone: its outputs are never anonymous, whatever they look like"
            )
        if self.anonymity.ladder and self.operator.dial is None:
            raise ValueError(f"anonymity.ladder: operator {self.operator.name} has no level to raise")
        if self.anonymity.faces_only and ("mask" not in self.operator.accepts or self.mask is not None):
            raise ValueError("anonymity.faces_only makes the mask: take operator sdedit, and no section mask")
        if self.video is not None or self.clip is not None:
            raise ValueError("anonymity: faces are verified image by image; clips are not supported")
        if self.output.format != "webdataset" and self.release is not None:
            raise ValueError("release: output.format must be webdataset")
        return self

    @model_validator(mode="before")
    @classmethod
    def _clips_in_folders(cls, content: Any) -> Any:
        match content:
            case {"video": video, "input": {"format": "folder", **given}} if video is not None:
                extensions = {"extensions": (*IMAGE_EXTENSIONS, *CLIP_EXTENSIONS)}
                return {**content, "input": {"format": "folder", **extensions, **given}}
        return content

    @model_validator(mode="after")
    def _clips_stay_whole(self) -> JobConfig:
        if self.video is None:
            return self
        if self.output.format == "parquet":
            raise ValueError("video: a parquet file holds images; output.format must be webdataset or folder")
        if self.guide and self.guide.previous:
            raise ValueError("video: guide.previous would be an earlier frame of the clip, and the first has none")
        if self.operator and type(self.operator).choose is not Operator.choose:
            raise ValueError(f"video: operator {self.operator.name} keeps other copies of each frame")
        return self

    @field_validator("clip")
    @classmethod
    def _one_group(cls, clip: str | None) -> str | None:
        try:
            if clip is not None and re.compile(clip).groups < 1:
                raise ValueError("a group is missing that names the clip, as in (.+)-[0-9]+")
        except re.error as error:
            raise ValueError(f"no valid regular expression ({error})") from None
        return clip

    def wants(self, model: Outline, kind: Literal["class", "text"], condition: str = "own") -> bool:
        """Whether the job conditions the model on the samples' own labels (captions)."""
        return model.conditioning == kind and self.operator is not None and condition in self.operator.conditions_used()

    def window(self, model: Outline) -> int | None:
        """Frames that the model sees at once; None for a model of single images."""
        if not isinstance(model, OfClips):
            return None
        return self.video.frames if self.video and self.video.frames else model.frames


@dataclass(frozen=True, kw_only=True)
class Job:
    """A configuration with everything that must stay the same for its outputs to stay the same."""

    config: JobConfig
    salt: bytes
    hashes: dict[str, str]
    licences: dict[str, Licence]
    """Of each model's weights, by its path."""
    gate: dict[str, Any] | None = None
    """What the gate judges by, where the recipe asks for one."""
    fitted: int | None = None
    """The batch size that was found, where the recipe's is auto."""

    @property
    def batch_size(self) -> int:
        """Of a job with a model."""
        size = self.config.model.batch_size if self.config.model else 1
        if isinstance(size, str):
            size = self.fitted or 0
        if not size:
            raise RuntimeError("the batch size was not found yet: see engines.local.fitted")
        return size

    @property
    def code(self) -> str:
        """Version and source hash, for people."""
        return f"{__version__}+{self.hashes['code'][:12]}"

    def __repr__(self) -> str:  # the salt must not reach a log by accident
        return f"Job({self.config.output.path!r})"


def make_job(config: JobConfig) -> Job:
    """Reads salt and model, checks that all fits together, hashes configuration, model and code.

    Raises `UserError` for all that can be known to be wrong before work starts.
    """
    salt = read_salt(config.run)
    model, second = (sketch_model(c) if c else None for c in (config.model, config.second_model))
    if model and config.operator:
        check(config.operator, model, second)
        check_clips(config, model, second)
        for condition, section in (("own", "caption"), ("edited", "edited")):
            if config.wants(model, "text", condition) and getattr(config, section) is None:
                advice = f"give the recipe a section {section}, or the operator a prompt"
                raise UserError(f"condition {condition}: the model takes prompts; {advice}")
        if config.mask and config.mask.file:
            file_mask(config.mask.file, model.size)
        if config.guide and config.guide.file:
            file_guide(config.guide.file, model.size, config.image.fit)
    hashes = {
        "config": hash_json({k: v for k, v in identity(config).items() if k not in ("input", "limit")}),
        "model": model.hash if model else "",
        "second_model": second.hash if second else "",
        "judge": hash_model(find_model(ModelConfig(**config.judge.model_dump()))) if config.judge else "",
        "files": hash_files(section.file for section in (config.mask, config.guide) if section),
        "code": code_hash(),
        "salt": salt_check(salt),
    }
    folders = {path: find_model(ModelConfig(path=path, revision=revision)) for path, revision in weights(config)}
    licences = {path: read_licence(folder) for path, folder in folders.items()}
    return Job(config=config, salt=salt, hashes=hashes, licences=licences)


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


def weights(config: JobConfig) -> Iterator[tuple[str, str | None]]:
    """Path and revision of all weights that a job loads."""
    for model in (config.model, config.second_model):
        if model is not None:
            yield model.path, model.revision
            yield from ((upscaler.path, upscaler.revision) for upscaler in model.upscalers)
    if config.judge is not None:
        yield config.judge.path, config.judge.revision
