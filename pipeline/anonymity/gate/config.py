"""The `anonymity:` section of a recipe: who judges, by which thresholds, and what becomes of what they cannot prove."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from pipeline.anonymity.gate.families import default_recognisers
from pipeline.anonymity.gate.guidance import FaceGuidance
from pipeline.diffusion.level_range import LevelRange
from pipeline.geometry.config import Format, Places
from pipeline.section import LocalPath, Section

Far = Literal["1e-2", "1e-3", "1e-4"]
"""The name of a false acceptance rate."""
Policy = Literal["quarantine", "retry", "pass"]
"""`quarantine` sets the image aside at once; `retry` first goes round again, where a level is left; `pass` releases it
without proof."""


class Undecided(Section):
    """What becomes of images on which the recognisers can say nothing. `pass` gives up the proof, and is counted."""

    no_face_in_source: Policy = "quarantine"
    no_face_in_output: Policy = "retry"
    face_count_changed: Policy = "retry"
    face_too_small: Policy = "quarantine"


class FacesOnly(Section):
    """Changes the faces only; the scene around them stays, pixel by pixel."""

    margin: float = Field(default=0.35, ge=0)
    """Added on each side of a face's box, as a fraction of the box's side, because hair, ears and chin identify people,
    too."""
    feather: float = Field(default=0.15, ge=0, lt=0.5)
    """Width of the soft edge inside the ellipse of box and margin, as a fraction of the ellipse's diameter."""


class AnonymityConfig(Section):
    """Compares every output with its source and with all originals; what is not proven anonymous is not written."""

    detector: str = "dlib"
    """Name of deepface's detector that finds the faces."""
    recognisers: tuple[str, ...] = Field(default_factory=default_recognisers, min_length=1)
    """Names of deepface's recognisers, or `dlib-chip`, `faceres`, `lbph`, `small`. An image is anonymous only where all
    of them say so. By default `Dlib` and `dlib-chip`, which share a network, and, where its weights are present,
    `faceres`, which has another."""
    one_family: Literal["accepted"] | None = None
    """With `accepted`, recognisers of one family (those that share a network) may judge outputs of levels below .9,
    where others still find people. The release says so."""
    threshold: Literal["deepface"] | Far = "deepface"
    """Two faces at a larger cosine distance are two people. `deepface` takes deepface's threshold (or, for a recogniser
    that deepface doesn't have, the certificate's at FAR 1e-3); a false acceptance rate takes the certificate's."""
    certificates: tuple[LocalPath, ...] = ()
    """Files that `doppel calibrate-faces` wrote; by default those that ship with doppel."""
    identity: str | None = None
    """How to tell who is in an image: `json:FIELD` of a member, or `key:REGEX` with one group; by default people are
    unknown."""
    ladder: tuple[LevelRange, ...] = ()
    """Levels after the operator's own. An image that fails goes round again at the next one, with fresh noise. By
    default none; with recognisers of one family .9 and .95, and .9 is the operator's own where it gives none."""
    smallest_face: int = Field(default=16, ge=1)
    """Faces with a shorter side below this, in pixels of the image in the model's size, are undecided."""
    near_copy: int = Field(default=6, ge=0, lt=32)
    """Perceptual hashes that differ in at most so many of 64 bits count as one photograph. Encoding changes about 2
    bits, so keep it 2 above `release.near_copy`."""
    undecided: Undecided = Undecided()
    faces_only: FacesOnly | None = None
    guidance: FaceGuidance | None = None
    """Leads outputs away from the person while they are made, so that lower levels suffice."""
    boxes: Places = ()
    """Where your own boxes of faces are, in the JSON of members or columns: `json:faces`, `json:people.face`. The
    detector must find a face of its own in each; where it does not, or a sample lacks the field, the sample goes to the
    quarantine. Where only faces change, these change, too."""
    keep: Places = ()
    """Where boxes of regions are whose pixels stay as they are, in the model's size. A sample with a region that meets
    a face, declared or found, or what lies around it (`faces_only.margin` by default), goes to the quarantine."""
    box_format: Format | None = None
    """What the four numbers of the boxes in `boxes` and `keep` are, as in `geometry.format`, in the upright image."""
    workers: int = Field(default=2, ge=1)
    """Processes that detect faces."""

    @model_validator(mode="after")
    def _format_is_known(self) -> AnonymityConfig:
        if (self.boxes or self.keep) and self.box_format is None:
            raise ValueError(f"boxes and keep need a box_format: {', '.join(get_args(Format))}")
        return self

    @field_validator("identity")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        kind, _, rest = (value or "json:x").partition(":")
        if kind not in ("json", "key") or not rest:
            raise ValueError("write json:FIELD, or key:REGEX with one group")
        if kind == "key":
            try:
                if re.compile(rest).groups != 1:
                    raise ValueError("key:REGEX needs exactly one group, the identity")
            except re.error as error:
                raise ValueError(f"not a valid regular expression ({error})") from None
        return value
