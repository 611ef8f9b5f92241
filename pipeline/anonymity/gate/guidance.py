"""The section `anonymity.guidance` of a recipe: by whom estimates are led away from the person, and how far."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.anonymity.faces.places import PLACES
from pipeline.diffusion.level_range import LevelRange
from pipeline.section import Section


class FaceGuidance(Section):
    """Pushes each estimate of the clean image until the recognisers no longer know the person in it."""

    recognisers: tuple[str, ...] = Field(min_length=1)
    """Whose gradients are used: `Dlib`, `dlib-chip`, `small`, `faceres`. Take two families: what moves one network
    alone need not change the face. A recogniser that is neither here nor in the gate tells whether it did."""
    scale: float = Field(default=0.1, gt=0)
    """The strength of one push: the root mean square of what it adds to pixels, which go from -1 to 1."""
    pushes: int = Field(default=1, ge=1)
    """How many times each estimate is pushed, at most; it is left alone where all recognisers are far enough away."""
    margin: float = Field(default=0.25, gt=0, lt=1)
    """How far is far enough: the cosine distance that this share of pairs of strangers among the originals stay
    within. 0.5 makes an image as unlike its person as the median stranger is; strangers in one pose and light are
    nearer."""
    interval: LevelRange = LevelRange(low=0.15, high=1)
    """The noise levels at which estimates are pushed. Below, the model alone has the last word on what a face looks
    like."""
    face_only: bool = True
    """Whether pushes reach the faces only, and leave the pixels around them to the model."""

    @field_validator("recognisers")
    @classmethod
    def _differentiable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in PLACES:
                raise ValueError(f"{name} gives no gradients; those that do are {', '.join(PLACES)}")
        return names
