"""How an image was made: the member `doppel.json` of every output sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.media.output_keys import OutputKey
from pipeline.media.versioned import Text, Versioned
from pipeline.section import Section

PROVENANCE = "doppel.json"
"""Member of every output sample that says how it was made."""
Details = Mapping[str, Any]
"""What an operator says beside the image; JSON, and the operator's own."""


class GateVerdict(Section):
    """What the gate said of an image; no names, no keys."""

    attempt: int
    """0 is the operator's own level, 1 the first of the ladder."""
    verdict: Literal["anonymous", "recognisable", "undecided"]
    why: str
    distances: tuple[dict[str, float], ...]
    """Of each face, by recogniser, to the nearest face of its source."""
    others_within: dict[str, int]
    """By recogniser, how many faces of other originals are nearer than its threshold."""


class Provenance(Versioned):
    """Of one image, or of one clip. What is None did not apply."""

    key: OutputKey
    code: str
    """Version and source hash, for people."""
    config: str
    """Hash of the configuration, without the places of input and output."""
    operator: str | None = None
    parameters: dict[str, Any] | None = None
    """The operator's section of the recipe."""
    level: dict[str, float | None] | None = None
    """That the image started from: `fraction` of T, `sigma` and `log_snr`."""
    sigmas: tuple[float, ...] = ()
    """All levels that it went through."""
    model: str | None = None
    """Hash of its weights, as of the next."""
    second_model: str | None = None
    batch_size: int | None = None
    frames: int | None = None
    """That the model saw at once."""
    clip: Text | None = None
    """The clip that the image is a frame of, or that it is: the key of its noise."""
    details: Details | tuple[Details, ...] | None = None
    """Of a clip, one for each frame."""
    anonymity: GateVerdict | None = None
    before: str | None = None
    """The provenance of the sample that it was made from, as it was there."""
