"""The recipe of `doppel calibrate`; everything that can be wrong with it alone is found when it is read."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.job.classes import ClassMap
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.operators import OPERATORS, AnyOperator
from pipeline.section import Fraction, LocalPath, Recipe, Section
from pipeline.streams import AnyInput
from training.classifier.filtering import FilterConfig
from training.data.overlap import NEAR_SHARE

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels that are measured by default, as fractions of T."""
EPOCHS = 3.0
"""Epochs that a judge is trained for by default."""


class LabelJudgeConfig(Section):
    """The classifier that judges: read from a file, or trained here on images that are not in the slice."""

    file: LocalPath | None = None
    """A file that `training.classifier.judge.save_classifier` wrote. What it was trained on cannot be checked."""
    data: AnyInput | None = None
    """Labelled images to train the judge on."""
    epochs: float = Field(default=EPOCHS, gt=0)
    """How long it is trained."""
    seed: int = 0
    """Decides its initial weights and the order of the images."""

    @model_validator(mode="after")
    def _one_source(self) -> LabelJudgeConfig:
        if (self.file is None) == (self.data is None):
            raise ValueError("give file or data, and not both")
        if self.file is not None and (self.epochs, self.seed) != (EPOCHS, 0):
            raise ValueError("epochs and seed belong to data: a judge from a file is not trained")
        return self


class FacesConfig(Section):
    """Measures the distance between the face of an original and that of its neighbour."""

    recogniser: str = "Dlib"
    """Name of deepface's recogniser, or `dlib-chip`, `lbph`, `small`."""
    detector: str = "dlib"
    """Name of deepface's detector."""
    threshold: float | None = Field(default=None, gt=0)
    """Two faces at a larger cosine distance are two people; by default deepface's threshold, where it has one."""
    workers: int = Field(default=2, ge=0)
    """Processes that detect faces; with 0, this process does it."""


class CalibrationConfig(PixelRules, Recipe):
    """The recipe of `doppel calibrate`."""

    kind: Literal["calibrate"] = "calibrate"
    data: AnyInput
    """Labelled images that neither model nor judge was trained on."""
    limit: int | None = Field(default=None, ge=1)
    """Takes only N of them, drawn by `seed`."""
    near_copies: Fraction = NEAR_SHARE
    """The largest fraction of `data` that may look like training images: at most 16 of 255 bits of a perceptual hash
    differ."""
    model: ModelConfig
    """The diffusion model, with a number as its batch_size."""
    classes: ClassMap | None = None
    """What the classes of the data are for a model with classes, as in a job."""
    operator: AnyOperator
    """The operator. Its level is varied and its copies are those below, whatever it says itself."""
    levels: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=LEVELS, min_length=1)
    """The levels to measure, as fractions of T, ascending."""
    copies: int = Field(default=2, ge=1)
    """Neighbours of each image at each level; the distance between them needs 2."""
    target: float = Field(default=0.95, gt=0, le=1)
    """The fraction of neighbours that must at least show the label, among neighbours of originals in which the judge
    sees it."""
    judge: LabelJudgeConfig
    filter: FilterConfig | None = None
    """Reports the fraction of the neighbours that this filter would reject, with the judge as baseline classifier."""
    faces: FacesConfig | None = None
    """Measures faces, too."""
    salt_file: LocalPath | None = None
    """The secret of a job, for measuring exactly the neighbours that the job will make."""
    output: LocalPath
    """Folder of the results."""
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
