"""What `doppel calibrate` reads; everything that can be wrong with it alone is said when it is read."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.media.pixels import Fit
from pipeline.models.config import ModelConfig
from pipeline.operators import OPERATORS, AnyOperator
from pipeline.section import Recipe, Section
from pipeline.streams import AnyInput
from training.classifier.filtering import FilterConfig

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
EPOCHS = 3.0


class LabelJudgeConfig(Section):
    """The classifier that judges: read from a file, or trained on the spot on images that are not in the slice."""

    file: str | None = None
    """Of `training.classifier.judge.save_classifier`. What it was trained on cannot be checked."""
    data: AnyInput | None = None
    epochs: float = Field(default=EPOCHS, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _one_source(self) -> LabelJudgeConfig:
        if (self.file is None) == (self.data is None):
            raise ValueError("give file or data, and not both")
        if self.file is not None and (self.epochs, self.seed) != (EPOCHS, 0):
            raise ValueError("epochs and seed belong to data: a judge from a file is not trained")
        return self


class FacesConfig(Section):
    """Who is to recognise whom, for the distance between the face of an original and that of its neighbour."""

    recogniser: str = "Dlib"
    """By deepface's name, or `dlib-chip`, `lbph`, `small`."""
    detector: str = "dlib"
    threshold: float | None = Field(default=None, gt=0)
    """Cosine distance beyond which two faces are two people; deepface's, where it has one."""
    workers: int = Field(default=2, ge=0)
    """Processes that detect faces; 0: none but this one."""


class CalibrationConfig(Recipe):
    """What `doppel calibrate` reads."""

    kind: Literal["calibrate"] = "calibrate"
    data: AnyInput
    """Labelled images that neither the model nor the judge was trained on."""
    limit: int | None = Field(default=None, ge=1)
    """Only N of them, drawn by `seed`."""
    fit: Fit = "resize"
    model: ModelConfig
    operator: AnyOperator
    """Its level is what is swept, whatever it says of it; so are its copies."""
    levels: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=LEVELS, min_length=1)
    """Fractions of T, ascending."""
    copies: int = Field(default=2, ge=1)
    """Neighbours of each image at each level; the distance between them needs 2."""
    target: float = Field(default=0.95, gt=0, le=1)
    """The least share of neighbours that must show the label, of originals on which the judge sees it."""
    judge: LabelJudgeConfig
    filter: FilterConfig | None = None
    """To report what share of the neighbours it would reject, the judge being the baseline classifier."""
    faces: FacesConfig | None = None
    salt_file: str | None = None
    """The job's secret, to look at the very neighbours that it will make."""
    output: str
    seed: int = 0

    @field_validator("levels")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(levels)):
            raise ValueError("the levels must ascend")
        return levels

    @field_validator("operator")
    @classmethod
    def _has_a_level(cls, operator: AnyOperator) -> AnyOperator:
        if operator.dial is None:
            able = ", ".join(name for name, kind in OPERATORS.items() if kind.dial)
            raise ValueError(f"{operator.name} has no level; allowed are {able}")
        return operator

    @field_validator("model")
    @classmethod
    def _batches_of_one_size(cls, model: ModelConfig) -> ModelConfig:
        if model.batch_size == "auto":
            raise ValueError("batch_size is auto; a number is expected")
        return model
