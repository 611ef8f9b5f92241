"""How an image was made: the member `doppel.json` of every output sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.media.frame import Frame
from pipeline.media.output_keys import OutputKey
from pipeline.media.versioned import Text, Versioned
from pipeline.section import Section

PROVENANCE = "doppel.json"
"""Member of every output sample that says how it was made."""
Details = Mapping[str, Any]
"""What an operator reports in addition to the image, as JSON; each operator has its own fields."""


class GateVerdict(Section):
    """The gate's verdict on an image, without names and keys."""

    attempt: int
    """The round that passed: 0 is the operator's own level, 1 the first of the ladder."""
    verdict: Literal["anonymous", "recognisable", "undecided"]
    why: str
    """A sentence; empty where the image is anonymous."""
    distances: tuple[dict[str, float], ...]
    """For each face, its cosine distance to the nearest face of its source, by recogniser."""
    others_within: dict[str, int]
    """By recogniser, how many faces of other originals are within its threshold."""


class SourceFacts(Section):
    """What tells the source of an image from others."""

    content: str | None
    """Hash of its pixels, see `content_hash`."""
    label: int | None
    """Number of its class in its data set."""


class Prompt(Section):
    """A prompt that an image was made with."""

    text: Text
    """All of it, also what was cut."""
    cut: int = 0
    """How many tokens at its end the text encoder did not read; of several encoders, that which reads most counts."""


class Provenance(Versioned):
    """How one image, or one clip, was made. A field that does not apply is None."""

    key: OutputKey
    """Which output of which sample it is."""
    shard: Text = ""
    """The shard of the sample, where other shards may have samples of its key; see `Sample.shard`."""
    code: str
    """doppel's version and the beginning of the code's hash, for people to read."""
    config: str
    """Hash of the configuration, without the places of input and output."""
    operator: str | None = None
    """Name of the operator."""
    parameters: dict[str, Any] | None = None
    """The section `operator:` of the recipe."""
    guidance: dict[str, Any] | None = None
    """The section `anonymity.guidance` of the recipe, where estimates were led away from people."""
    level: dict[str, float | None] | None = None
    """The level that the image started from: `fraction` of T, `sigma` and `log_snr`."""
    sigmas: tuple[float, ...] = ()
    """All levels that it went through, as σ."""
    model: str | None = None
    """Hash of the model's weights."""
    second_model: str | None = None
    """Hash of the second model's weights."""
    prompts: tuple[Prompt, ...] = ()
    """The prompts of the operator's conditions, where the model takes prompts."""
    batch_size: int | None = None
    """Images, or windows of frames, that went through the model together."""
    frames: int | None = None
    """Frames that the model saw at once."""
    source: SourceFacts | None = None
    """The source, by which a training finds its neighbours; None where people are made anonymous, because the hash of a
    photograph tells it."""
    geometry: Frame | None = None
    """Where the source lies in the output: what became of orientation, window and size."""
    clip: Text | None = None
    """The clip that the image is a frame of, or that it is: the name that its noise is drawn by."""
    details: Details | tuple[Details, ...] | None = None
    """What the operator reports; for a clip, one entry for each frame."""
    anonymity: GateVerdict | None = None
    """The gate's verdict, where there was a gate."""
    before: str | None = None
    """The provenance of the sample that it was made from, as it was there."""
