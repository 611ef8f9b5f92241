"""The configuration of a job, and all that can be known to be wrong with it before work starts."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.job.captions import CaptionConfig
from pipeline.job.extras import GuideConfig, JudgeConfig, MaskConfig
from pipeline.media.pixels import Codec, Fit
from pipeline.models.config import ModelConfig
from pipeline.operators import AnyOperator
from pipeline.operators.contract import Extra
from pipeline.release import ReleaseConfig
from pipeline.section import Recipe, Section
from pipeline.streams import AnyInput, OutputFormat
from pipeline.streams.shards import CLIP_EXTENSIONS, IMAGE_EXTENSIONS


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


class JobConfig(Recipe):
    """What `doppel run` reads. Without `model` and `operator` the job passes images through."""

    kind: Literal["job"] = "job"
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
            raise ValueError(f"operator {name} does not use the section {', '.join(sorted(useless))}")
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
        masked = self.operator.keeps_unmasked and "mask" in self.operator.accepts
        if self.anonymity.faces_only and (self.mask is not None or not masked):
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
        if self.operator and self.operator.selects:
            raise ValueError(f"video: operator {self.operator.name} keeps other copies of each frame")
        return self

    @field_validator("clip")
    @classmethod
    def _one_group(cls, clip: str | None) -> str | None:
        try:
            if clip is not None and re.compile(clip).groups < 1:
                raise ValueError("a group is missing that names the clip, as in (.+)-[0-9]+")
        except re.error as error:
            raise ValueError(f"not a valid regular expression ({error})") from None
        return clip
