"""The `anonymity:` section of a recipe: who judges, by which thresholds, and what becomes of what they cannot prove."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from pipeline.diffusion.level_range import LevelRange
from pipeline.section import Section

Far = Literal["1e-2", "1e-3", "1e-4"]
Policy = Literal["quarantine", "retry", "pass"]
"""Quarantine at once; go round again first, where a level is left; release without proof."""


class Undecided(Section):
    """What becomes of images on which recognisers say nothing. `pass` gives up the proof, and is counted."""

    no_face_in_source: Policy = "quarantine"
    no_face_in_output: Policy = "retry"
    face_count_changed: Policy = "retry"
    face_too_small: Policy = "quarantine"


class FacesOnly(Section):
    """Only the faces change; the scene around them stays, pixel by pixel."""

    margin: float = Field(default=0.35, ge=0)
    """Added on each side of a face's box, as a share of the box: hair, ears and chin identify too."""
    feather: float = Field(default=0.15, ge=0, lt=0.5)
    """Width of the soft edge, inside the margin's ellipse, as a share of its size."""


class AnonymityConfig(Section):
    """Every output is compared with its source and with all originals; without proof it is not written."""

    detector: str = "dlib"
    recognisers: tuple[str, ...] = Field(default=("Dlib", "dlib-chip"), min_length=1)
    """By deepface's names, or `dlib-chip`, `lbph`, `small`. An image is anonymous where all of them say so."""
    threshold: Literal["deepface"] | Far = "deepface"
    """Cosine distance above which two faces are two people: deepface's (of a recogniser that it doesn't know, the
    certificate's at FAR 1e-3), or the certificate's at a false-match rate."""
    certificates: tuple[str, ...] = ()
    """Files that `doppel calibrate-faces` wrote; by default those that ship with doppel."""
    identity: str | None = None
    """Who is in an image, where that is known: `json:FIELD` of a member, or `key:REGEX` with one group."""
    ladder: tuple[LevelRange, ...] = ()
    """Levels after the operator's own; an image that fails goes round again at the next, with fresh noise."""
    smallest_face: int = Field(default=16, ge=1)
    """Shorter side in pixels, in the model's size; smaller faces are undecided."""
    near_copy: int = Field(default=6, ge=0, lt=32)
    """Perceptual hashes (64 bits) that differ in so many bits or fewer show one photograph. Encoding moves 2 of them:
    keep it above `release.near_copy` by that."""
    undecided: Undecided = Undecided()
    faces_only: FacesOnly | None = None
    workers: int = Field(default=2, ge=1)
    """Processes that detect faces."""

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
