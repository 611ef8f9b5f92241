"""The configuration of a job, and all that can be known to be wrong with it before work starts."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.families import ALONE, check_levels, families_of
from pipeline.geometry.config import GeometryConfig
from pipeline.job.captions import CaptionConfig
from pipeline.job.classes import ClassMap
from pipeline.job.copies import CopiesConfig
from pipeline.job.extras import GuideConfig, JudgeConfig, MaskConfig
from pipeline.media.pixels import Codec
from pipeline.media.rules import Percentile, PixelRules, Range, Reading
from pipeline.models.config import ModelConfig
from pipeline.operators import AnyOperator
from pipeline.operators.contract import Extra
from pipeline.release import ReleaseConfig
from pipeline.section import LocalPath, Place, Recipe, Section
from pipeline.streams import AnyInput, OutputFormat
from pipeline.streams.shards import CLIP_EXTENSIONS, IMAGE_EXTENSIONS


class ImageConfig(Reading):
    """How images are brought to the model's depth, size and colours, and back."""

    range: Range | Percentile | None = None
    """What is black and what is white in images of more than 8 bits: `dtype` (0 and 65535) for whole numbers of 16
    bits that fill their range; two numbers for all others, as `[0, 4095]` for 12 bits and `[-1000, 1000]` for a CT;
    or `{percentile: [1, 99]}` of the values in a probe. Without it, such images are refused. It changes no image of 8
    bits."""
    restore_size: bool = False
    """Whether the output has the geometry of the source again: upright, at its resolution, and in its size where the
    whole of it is seen. With `crop` and `centre` the output is the window that is seen."""
    mode: Literal["source", "RGB"] = "source"
    """With `source`, grey images stay grey even where the model paints in colour."""

    def rules(self, found: tuple[float, float] | None) -> PixelRules:
        """The rules with the numbers that were `found` for a percentile."""
        known = found if isinstance(self.range, Percentile) else self.range
        return PixelRules(fit=self.fit, background=self.background, frames=self.frames, range=known)


class OutputConfig(Section):
    """The place and the format of what is written."""

    path: Place
    """The job's folder, which may be the URL of one in an object store: data, quarantine, records and manifest."""
    format: OutputFormat = "webdataset"
    codec: Codec | Literal["auto"] = "auto"
    """The codec of all images; `auto` takes PNG without a model, and for a model of less than 128 pixels a side, else
    JPEG."""
    quality: int = Field(default=95, ge=1, le=100)
    """The quality of JPEG and WebP, 1 to 100."""


class RunConfig(Section):
    """The devices that a job runs on and its speed; nothing here changes the bytes that are written."""

    devices: tuple[str, ...] = Field(default=("auto",), min_length=1)
    """Devices by torch's names; `auto` takes every CUDA device, or else the CPU. Each device gets a process of its
    own."""
    memory: int = Field(default=1 << 30, ge=1 << 20)
    """Bytes of images that wait between reading and writing, about, at most, for each device; a model needs more."""
    workers: int = Field(default=2, ge=1)
    """Threads that decode and encode, for each device."""
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds after which a process is killed and replaced if no batch of its shard has got through, as where a decoder
    or a model hangs. The first batch takes the loading of the models as well. By default none is."""
    tries: int = Field(default=3, ge=1)
    """How many processes a shard may end before it is set aside, and all others are done. A shard is only blamed for a
    death that it had to itself, so with 1 there may be two."""
    lease: float = Field(default=60, ge=1, le=86400)
    """Seconds without a sign of life after which runs that share the job (`--share`) take over what one has claimed.
    There are four such signs in that time: it must outlast a pause of machine, network or store."""
    salt_file: LocalPath | None = None
    """A file with the secret that noise is derived from, at least 16 bytes; else the variable DOPPEL_SALT."""


class VideoConfig(Section):
    """Reads samples whose image is a clip, .mp4 or .gif, with all their frames, and writes them as clips again.

    `output.codec` and `output.quality` concern images only, not clips.
    """

    frames: int | None = Field(default=None, ge=1)
    """Frames that a model of clips sees at once; by default as many as it was trained with."""


class LabelsConfig(Section):
    """What happens to samples whose label is there, but cannot be read."""

    tolerate: int = Field(default=0, ge=0)
    """So many of them may be in the job: they are written without a class, or lie in quarantine where the model needs
    one. With one more the job fails."""


class JobConfig(Recipe):
    """The recipe of `doppel run`. Without `model` and `operator` the job passes images through."""

    kind: Literal["job"] = "job"
    input: AnyInput
    """The data set that is read."""
    model: ModelConfig | None = None
    """The diffusion model that the operator works with."""
    second_model: ModelConfig | None = None
    """The other model of operators that work between two; its `batch_size` does not count."""
    operator: AnyOperator | None = None
    """What is done to each image."""
    classes: ClassMap | None = None
    """What the classes of the data set are for a model that takes classes: `numbers`, where both number them alike; a
    list with the model's class, by name or number, for each number of the data set; or a mapping from names or numbers
    of the data set to the model's (`{t-shirt: T-shirt/top}`). By default, and for what a mapping leaves out, classes of
    the same name are the same; without names on either side, those of the same number."""
    labels: LabelsConfig = LabelsConfig()
    copies: CopiesConfig | None = None
    """The number of outputs of each sample, by its class; by default `operator.copies` of each."""
    caption: CaptionConfig | None = None
    """The prompt of each sample; models that take none ignore it."""
    edited: CaptionConfig | None = None
    """The caption of each sample as it is to become, for condition `edited`."""
    judge: JudgeConfig | None = None
    """The CLIP that scores outputs, for operators that choose among copies."""
    mask: MaskConfig | None = None
    """What is to change in each image."""
    guide: GuideConfig | None = None
    """A second image for each sample."""
    anonymity: AnonymityConfig | None = None
    """The gate: every output's faces are verified, and what is not proven anonymous is not written."""
    safety: Literal["refuse", "off"] = "off"
    """With `refuse`, the safety checkers in the folders of the models are asked of every output, and a sample goes to
    the quarantine where one objects to any of its outputs; with `off`, none is asked."""
    release: ReleaseConfig | None = None
    """Publishes what was verified, without anything that names people."""
    clip: str | None = None
    """A regular expression for the keys of frames, whose first group names the clip. The frames of a clip share their
    noise."""
    video: VideoConfig | None = None
    """Makes clips, and not only images, into samples."""
    geometry: GeometryConfig | None = None
    """Members and columns that say where things are in an image, and follow it."""
    image: ImageConfig = ImageConfig()
    output: OutputConfig
    run: RunConfig = RunConfig()
    on_damage: Literal["fail", "keep"] = "fail"
    """Whether the job has failed where a shard of its input is damaged, so that nobody knows how many samples are lost.
    What could be read of it is written in either case."""
    limit: int | None = Field(default=None, ge=1)
    """Processes only the first N samples of the stream."""

    @property
    def models(self) -> list[ModelConfig]:
        """The sections of the models that it has."""
        return [model for model in (self.model, self.second_model) if model is not None]

    @model_validator(mode="after")
    def _model_and_operator(self) -> JobConfig:
        if (self.model is None) != (self.operator is None):
            raise ValueError("model and operator belong together: give both, or neither to pass images through")
        if self.safety == "refuse" and self.model is None:
            raise ValueError("safety: refuse asks the model's own checker, and there is no model")
        return self

    @model_validator(mode="after")
    def _copies_of_something(self) -> JobConfig:
        if self.copies is not None and (self.operator is None or self.operator.selects):
            name = self.operator.name if self.operator else "none"
            raise ValueError(f"copies: operator {name} makes no copies that could be more for some classes")
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
    def _masks_are_upright(self) -> JobConfig:
        beside = [f"{name}.member" for name in ("mask", "guide") if (section := getattr(self, name)) and section.member]
        if beside and self.geometry and not self.geometry.upright:
            raise ValueError(f"geometry.upright: false: {beside[0]} is taken as viewers show it; no section has both")
        return self

    @model_validator(mode="after")
    def _places_stay(self) -> JobConfig:
        if self.geometry is not None and self.operator is not None and not self.operator.keeps_places:
            raise ValueError(f"geometry: with these options operator {self.operator.name} moves what lies in an image")
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
        if self.anonymity.guidance and not self.operator.steerable:
            raise ValueError(f"anonymity.guidance: the estimates of operator {self.operator.name} cannot be steered")
        if self.anonymity.guidance and any(model.upscalers for model in self.models):
            raise ValueError("anonymity.guidance steers models of one stage, and this one has upscalers")
        if self.video is not None or self.clip is not None:
            raise ValueError("anonymity: faces are verified image by image; clips are not supported")
        if self.output.format != "webdataset" and self.release is not None:
            raise ValueError("release: output.format must be webdataset")
        return self

    @model_validator(mode="after")
    def _levels_suit_the_gate(self) -> JobConfig:
        gate, dial = self.anonymity, self.operator.dial if self.operator else None
        if gate is None or self.operator is None or dial is None or gate.one_family == "accepted":
            return self
        families = families_of(gate.recognisers)
        if len(families) > 1:
            return self
        operator = self.operator if dial in self.operator.model_fields_set else self.operator.at(ALONE[0])
        own = "ladder" in gate.model_fields_set or operator.sought is not None  # further looks would break a bound
        gate = gate if own else gate.model_copy(update={"ladder": ALONE})
        further = {f"anonymity.ladder[{i}]": level for i, level in enumerate(gate.ladder)}
        first = {} if operator.sought else {f"operator.{dial}": getattr(operator, dial)}  # checked once it is found
        check_levels(families[0], first | further)
        return self.model_copy(update={"anonymity": gate, "operator": operator})

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
